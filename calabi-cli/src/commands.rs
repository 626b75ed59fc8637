//! The commands, one file each.

pub(crate) mod calibrate;
pub(crate) mod clean;
pub(crate) mod densify;
pub(crate) mod eval;
pub(crate) mod finetune;
pub(crate) mod init;
pub(crate) mod inspect;
pub(crate) mod merge;
pub(crate) mod plan;
pub(crate) mod plugins;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod submit;
