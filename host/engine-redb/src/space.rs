//! How much room a disk has, and when that is too little to take more messages.

/// Most bytes of messages that a file is compacted with: a fraction of a second's work, in which nothing else happens.
const COMPACT_LIVE_BYTES_MAX: u64 = 64 << 20;

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
    /// half full, so that as much again is taken to be theirs.
    fn free_inside(self, live_bytes: u64) -> u64 {
        self.file.saturating_sub(live_bytes.saturating_mul(2))
    }
}

/// Whether there is less room than `floor`, outside of the file and inside it together, so that publishing has to stop.
///
/// `was_full`: a write found no room. redb may put pages where its file was never written to, which needs the disk though the file
/// has room elsewhere; so that after that only what the disk has counts.
pub(crate) fn is_full(space: Space, live_bytes: u64, floor: u64, was_full: bool) -> bool {
    let inside = if was_full { 0 } else { space.free_inside(live_bytes) };
    space.free.saturating_add(inside) < floor
}

/// Whether giving back what the file does not need helps a disk that has less than `floor`, and is done quickly.
pub(crate) fn is_worth_compacting(space: Space, live_bytes: u64, floor: u64) -> bool {
    space.free < floor
        && live_bytes <= COMPACT_LIVE_BYTES_MAX
        && space.free.saturating_add(space.free_inside(live_bytes)) >= floor
        && space.free_inside(live_bytes) >= space.file / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(free: u64, file: u64) -> Space {
        Space { free, file }
    }

    #[test]
    fn room_is_what_the_disk_has_and_what_the_file_does_not_use() {
        let check = |free, file, live_bytes, floor, expected| {
            let space = space(free, file);
            assert_eq!(
                is_full(space, live_bytes, floor, false),
                expected,
                "{space:?}, {live_bytes} live, at least {floor}"
            );
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

    #[test]
    fn after_a_write_found_no_room_only_the_disk_counts() {
        let check = |free, expected| assert_eq!(is_full(space(free, 1000), 0, 100, true), expected, "{free} free");
        check(0, true);
        check(99, true);
        check(100, false);
    }

    #[test]
    fn a_file_is_compacted_when_that_makes_room_and_is_quick() {
        let check = |free, file, live_bytes, floor, expected| {
            let space = space(free, file);
            assert_eq!(
                is_worth_compacting(space, live_bytes, floor),
                expected,
                "{space:?}, {live_bytes} live, at least {floor}"
            );
        };
        check(0, 1000, 250, 100, true);
        // The disk has enough; the file has no room; most of it is in use; there is too much to move.
        check(100, 1000, 0, 100, false);
        check(0, 1000, 500, 100, false);
        check(0, 1000, 251, 100, false);
        check(0, COMPACT_LIVE_BYTES_MAX * 8, COMPACT_LIVE_BYTES_MAX, 100, true);
        check(0, COMPACT_LIVE_BYTES_MAX * 8, COMPACT_LIVE_BYTES_MAX + 1, 100, false);
        // It would not be enough.
        check(0, 1000, 0, 1001, false);
    }
}
