//! One file per command: its flags and what it does with them. What several share stands beside this folder.

pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod cancel;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod consumers;
pub(crate) mod dead;
pub(crate) mod dev;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod lease;
pub(crate) mod pause;
pub(crate) mod publish;
pub(crate) mod purge;
pub(crate) mod queues;
pub(crate) mod reload;
pub(crate) mod reset;
pub(crate) mod restore;
pub(crate) mod resume;
pub(crate) mod schedules;
pub(crate) mod serve;
pub(crate) mod settle;
pub(crate) mod verify;
