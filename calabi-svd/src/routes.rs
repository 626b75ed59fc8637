//! The second route: what is tried when the first does not converge.

use calabi_api::DecomposeError;

/// A way to a result; none where it does not converge.
pub(crate) struct Route<'a, T> {
    pub(crate) name: &'static str,
    pub(crate) solve: &'a dyn Fn() -> Option<T>,
}

/// The result of the first route that converges, and a remark where that is not the first of all.
pub(crate) fn first_to_converge<T>(
    backend: &'static str,
    routes: &[Route<'_, T>],
) -> Result<(T, Option<String>), DecomposeError> {
    let mut failed = Vec::new();
    for route in routes {
        if let Some(result) = (route.solve)() {
            let remark = || format!("{} did not converge: {} taken", failed.join(", "), route.name);
            return Ok((result, (!failed.is_empty()).then(remark)));
        }
        failed.push(route.name);
    }
    Err(DecomposeError::NoConvergence { backend, routes: failed.join(", then ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(results: [Option<u8>; 2]) -> Result<(u8, Option<String>), DecomposeError> {
        let [first, second] = results;
        let (first, second) = (|| first, || second);
        first_to_converge("x", &[Route { name: "one", solve: &first }, Route { name: "two", solve: &second }])
    }

    #[test]
    fn the_second_route_is_taken_and_said() {
        assert_eq!(routes([Some(1), Some(2)]), Ok((1, None)));
        assert_eq!(routes([None, Some(2)]), Ok((2, Some("one did not converge: two taken".to_owned()))));
        let routes = routes([None, None]).unwrap_err();
        assert_eq!(routes.to_string(), "x did not converge (one, then two)");
    }
}
