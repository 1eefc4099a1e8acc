//! One file per command: its flags and what it does with them. What several share stands beside this folder.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod consumers;
pub(crate) mod dead;
pub(crate) mod dev;
pub(crate) mod lease;
pub(crate) mod publish;
pub(crate) mod queues;
pub(crate) mod serve;
pub(crate) mod settle;
