//! Log lines that stay with their delivery.

pub use crate::bindings::wasi::logging::logging::Level;
use crate::host;

/// Writes a log line; `context` says which part of the consumer speaks. [`info!`](crate::info) and its sisters are
/// shorter. Never fails; the host keeps the first and last lines of a delivery that says too much.
pub fn log(level: Level, context: &str, message: &str) {
    host::log(level, context, message);
}

macro_rules! level {
    ($dollar:tt $name:ident, $level:ident, $doc:literal) => {
        #[doc = $doc]
        ///
        /// Takes what [`format!`] takes; the context is the module's path. Do not log bodies or secrets.
        #[macro_export]
        macro_rules! $name {
            ($dollar($argument:tt)+) => {
                $crate::log($crate::Level::$level, ::core::module_path!(), &::std::format!($dollar($argument)+))
            };
        }
    };
}

level!($ trace, Trace, "Logs a step of an algorithm.");
level!($ debug, Debug, "Logs what helps to find a mistake.");
level!($ info, Info, "Logs what happened, in normal operation.");
level!($ warn, Warn, "Logs that something is odd, though the handler goes on.");
level!($ error, Error, "Logs that something failed.");
level!($ critical, Critical, "Logs that somebody must act.");
