//! How much room a disk has, and when that is too little to take more messages.

/// Room for a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that the file system of its folder has to give.
    pub free: u64,
    /// Bytes of the disk that the data file takes already; what was never written to in it takes none.
    pub file: u64,
}

impl Space {
    /// Room inside the file: what was deleted leaves pages behind that are written again before the file grows.
    ///
    /// Counted from `live_bytes`, those of all messages, since redb would have to walk every tree to say it. Pages are about
    /// half full at worst, so that as much again is taken to be theirs.
    fn free_inside(self, live_bytes: u64) -> u64 {
        self.file.saturating_sub(live_bytes.saturating_mul(2))
    }
}

/// Whether there is less room than `floor`, outside of the file and inside it together, so that publishing has to stop.
pub(crate) fn is_full(space: Space, live_bytes: u64, floor: u64) -> bool {
    space.free.saturating_add(space.free_inside(live_bytes)) < floor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_the_disk_has_and_what_the_file_does_not_use() {
        let check = |free, file, live_bytes, floor, expected| {
            let space = Space { free, file };
            assert_eq!(is_full(space, live_bytes, floor), expected, "{space:?}, {live_bytes} live, at least {floor}");
        };
        // An empty store on a disk with and without room.
        check(100, 0, 0, 100, false);
        check(99, 0, 0, 100, true);
        // A store that fills its file: only the disk counts.
        check(100, 1000, 500, 100, false);
        check(99, 1000, 500, 100, true);
        check(99, 1000, 900, 100, true);
        // A store that was drained: its file has room, though the disk has none.
        check(0, 1000, 450, 100, false);
        check(0, 1000, 451, 100, true);
        // Both together.
        check(60, 1000, 480, 100, false);
        check(59, 1000, 480, 100, true);
        // Without a floor nothing is ever full, and nothing overflows.
        check(0, 0, u64::MAX, 0, false);
        check(u64::MAX, u64::MAX, 0, u64::MAX, false);
        check(0, u64::MAX, u64::MAX, 1, true);
    }
}
