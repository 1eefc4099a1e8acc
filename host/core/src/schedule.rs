//! Schedules: messages that are published by the clock.

use crate::name::ScheduleName;

/// `[[schedules]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulePlan {
    /// `name`
    pub name: ScheduleName,
}
