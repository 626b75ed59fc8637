//! Graphs with an operator that rten lacks. With feature `onnxruntime`, `ORT_DYLIB_PATH` has to name its library.

use crate::models::{FLOAT, Graph};

/// `x` of n × 3, `up` to 4, an operator that rten lacks (values up to 1/2 become 0), `down` to 2.
fn model() -> Graph {
    let (up, down) = weights();
    Graph::new()
        .input("x", FLOAT, &["n", "3"])
        .output("y", FLOAT, &["n", "2"])
        .weight("up", &[3, 4], &up)
        .weight("down", &[4, 2], &down)
        .node_with("MatMul", &["x", "up"], "high", &[])
        .node("Shrink", &["high"], "active")
        .node("MatMul", &["active", "down"], "y")
}

fn weights() -> ([f32; 12], [f32; 8]) {
    let value = |i: usize| (i * i % 7) as f32 / 4.0 - 0.75;
    (std::array::from_fn(value), std::array::from_fn(|i| value(i + 3)))
}

#[cfg(not(feature = "onnxruntime"))]
#[test]
fn without_onnxruntime_the_error_names_the_operator_and_the_feature() {
    let error = model().load().map(drop).unwrap_err().to_string();
    assert!(error.contains("Shrink") && error.contains("`onnxruntime`"), "{error}");
}

#[cfg(feature = "onnxruntime")]
mod with_library {
    use calabi_api::{Factors, Runner, Samples, Tensor};
    use ndarray::{Array1, Array2, Axis, Ix2, concatenate};

    use super::{model, weights};
    use crate::models::{FLOAT, Graph, array, file, kept, layer, samples, single};

    const SAMPLES: usize = 37;

    fn x() -> Array2<f32> {
        Array2::from_shape_fn((SAMPLES, 3), |(i, j)| ((i * 5 + j * 3) % 11) as f32 / 4.0 - 1.0)
    }

    fn given() -> Samples {
        samples([("x", Tensor::F32(x().into_dyn()))])
    }

    fn matrices() -> (Array2<f32>, Array2<f32>) {
        let (up, down) = weights();
        (Array2::from_shape_vec((3, 4), up.to_vec()).unwrap(), Array2::from_shape_vec((4, 2), down.to_vec()).unwrap())
    }

    /// What flows into `down`, and the outputs.
    fn expected(up: &Array2<f32>) -> (Array2<f32>, Array2<f32>) {
        let active = x().dot(up).mapv(|v| if v.abs() > 0.5 { v } else { 0.0 });
        let y = active.dot(&matrices().1);
        (active, y)
    }

    fn close(found: &Array2<f32>, wanted: &Array2<f32>) {
        assert_eq!(found.dim(), wanted.dim());
        let apart = (found - wanted).iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        assert!(apart < 1e-5, "{apart}");
    }

    fn outputs(runner: &mut dyn Runner) -> Array2<f32> {
        single(runner.outputs(&given())).values.into_dimensionality::<Ix2>().unwrap()
    }

    #[test]
    fn outputs_watched_inputs_and_substituted_factors_are_right() {
        let (_folder, mut runner) = kept(model());
        let inputs = runner.inputs();
        assert_eq!((inputs[0].name.as_str(), inputs[0].dims.as_slice()), ("x", &["n".to_owned(), "3".to_owned()][..]));
        let (up, _) = matrices();
        let (active, y) = expected(&up);
        close(&outputs(&mut *runner), &y);

        let layers = [layer("up", (4, 3), "x", "high"), layer("down", (2, 4), "active", "y")];
        let (mut of_up, mut of_down) = (Array2::zeros((0, 3)), Array2::zeros((0, 4)));
        let mut watch = |name: &str, rows: ndarray::ArrayView2<'_, f32>| {
            let seen = if name == "x" { &mut of_up } else { &mut of_down };
            *seen = concatenate(Axis(0), &[seen.view(), rows]).unwrap();
            Ok(())
        };
        runner.observe(&given(), &layers.each_ref(), &mut watch).unwrap();
        close(&of_up, &x());
        close(&of_down, &active);

        let factors = Factors {
            left: Array2::from_shape_fn((4, 1), |(i, _)| i as f32 - 1.0),
            right: Array2::from_elem((1, 3), 0.5),
            bias: Some(Array1::from_elem(4, 0.25)),
        };
        runner.substitute(&layers[0], Some(&factors)).unwrap();
        let cut = x().dot(&factors.left.dot(&factors.right).t()) + 0.25;
        let wanted = cut.mapv(|v| if v.abs() > 0.5 { v } else { 0.0 }).dot(&matrices().1);
        close(&outputs(&mut *runner), &wanted);
        runner.substitute(&layers[0], None).unwrap();
        close(&outputs(&mut *runner), &y);
    }

    #[test]
    fn weights_beside_the_model_are_found() {
        let (up, down) = weights();
        let graph = Graph::new()
            .input("x", FLOAT, &["n", "3"])
            .output("y", FLOAT, &["n", "2"])
            .weight_beside("up", &[3, 4], "model.data")
            .weight("down", &[4, 2], &down)
            .node_with("MatMul", &["x", "up"], "high", &[])
            .node("Shrink", &["high"], "active")
            .node("MatMul", &["active", "down"], "y");
        let (folder, path) = file("model.onnx", &graph.model());
        let bytes: Vec<u8> = up.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(folder.path().join("model.data"), bytes).unwrap();
        let mut runner = calabi_api::Runtime::load(&calabi_nn::OnnxRuntime::default(), &path).unwrap();
        close(&outputs(&mut *runner), &expected(&matrices().0).1);
    }

    #[test]
    fn an_operator_that_nobody_has_is_named() {
        let graph = Graph::new().input("x", FLOAT, &["n"]).output("y", FLOAT, &["n"]).node("Nonsense", &["x"], "y");
        let error = graph.load().map(drop).unwrap_err().to_string();
        assert!(error.contains("Nonsense"), "{error}");
    }

    #[test]
    fn samples_of_another_shape_are_refused() {
        let (_folder, mut runner) = kept(model());
        let wrong = samples([("x", Tensor::F32(array(&[2, 4], |_| 0.0)))]);
        assert!(runner.outputs(&wrong).is_err());
    }
}
