//! A disk in memory that loses what was not synced, tears it at sectors of 512 bytes, and fails when told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{Builder, Database, DatabaseError, StorageBackend};

use crate::open::Disk;
use crate::space::Space;

const SECTOR_BYTES: usize = 512;
/// What the disk gives room in. What was never written to takes none.
const BLOCK_BYTES: u64 = 4096;

/// What a disk is told to do wrong, after so many more calls of its kind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// Power fails at this call, of any kind.
    pub(super) crash_in: Option<u64>,
    /// A sync fails; what of it landed is random.
    pub(super) sync_in: Option<u64>,
    /// A write or a change of length fails: no space is left.
    pub(super) write_in: Option<u64>,
    /// A read fails.
    pub(super) read_in: Option<u64>,
    /// From now on so many writes fail: the disk is full for a while.
    pub(super) full_for: u64,
    /// A write panics, as redb does over a damaged file.
    pub(super) panic_in: Option<u64>,
}

/// How much room there is on a disk that others use too.
#[derive(Debug, Clone, Copy)]
struct Room {
    /// Blocks that the data file and the reserve may have together.
    blocks: u64,
    /// Blocks of a whole reserve.
    reserve: u64,
    /// The reserve is there.
    reserved: bool,
}

#[derive(Debug)]
struct Media {
    /// What would be there after power loss.
    durable: Vec<u8>,
    /// What the process sees.
    current: Vec<u8>,
    /// What was written to each sector since the last sync, in order: any of these may be there after power loss.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Every length that the file has had since the last sync; a change of length happens wholly or not at all.
    lengths: Vec<usize>,
    faults: Faults,
    /// How often what went wrong.
    struck: BTreeMap<&'static str, u64>,
    /// Blocks that were written to.
    blocks: BTreeSet<u64>,
    /// None: there is room without end.
    room: Option<Room>,
    /// Free bytes as they were told last.
    told_free: u64,
    /// Power is gone; nothing works until it is back.
    off: bool,
    /// Syncs are ignored: what the simulation must notice.
    lies: bool,
    random: fastrand::Rng,
}

/// The disk; clones are the same disk.
#[derive(Debug, Clone)]
pub(super) struct SimDisk(Arc<Mutex<Media>>);

/// Counts a countdown down; whether it is over.
fn strikes(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl Media {
    fn sector(bytes: &[u8], sector: usize) -> &[u8] {
        let start = (sector * SECTOR_BYTES).min(bytes.len());
        &bytes[start..(start + SECTOR_BYTES).min(bytes.len())]
    }

    /// Makes one sector durable as it was at some moment.
    fn persist(&mut self, sector: usize, bytes: &[u8]) {
        let start = sector * SECTOR_BYTES;
        let end = start + bytes.len();
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(bytes);
    }

    fn touch(&mut self, start: usize, end: usize) {
        for sector in start / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let bytes = Self::sector(&self.current, sector).to_vec();
            self.dirty.entry(sector).or_default().push(bytes);
        }
    }

    /// Of what was not synced any subset survives, each sector as it was after any of the writes to it, and any of the lengths.
    fn lose_unsynced(&mut self) {
        let length = self.durable.len();
        let keep = [0.0, 0.5, 0.9, 1.0][self.random.usize(..4)];
        for (sector, versions) in std::mem::take(&mut self.dirty) {
            if self.random.f64() < keep {
                // Mostly the last, since most of them were written once.
                let version = if self.random.bool() { versions.len() - 1 } else { self.random.usize(..versions.len()) };
                self.persist(sector, &versions[version]);
            }
        }
        let mut lengths = std::mem::take(&mut self.lengths);
        lengths.insert(0, length);
        self.durable.resize(lengths[self.random.usize(..lengths.len())], 0);
        self.current = self.durable.clone();
    }

    fn struck(&mut self, what: &'static str) {
        *self.struck.entry(what).or_insert(0) += 1;
    }

    fn check_space(&mut self) -> io::Result<()> {
        let full = self.faults.full_for > 0;
        self.faults.full_for = self.faults.full_for.saturating_sub(1);
        if full || strikes(&mut self.faults.write_in) {
            self.struck("write failed");
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Takes the blocks of a write, if there is room for them.
    fn take_room(&mut self, start: u64, end: u64) -> io::Result<()> {
        let wanted = start / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        let new = wanted.clone().filter(|block| !self.blocks.contains(block)).count() as u64;
        if new > 0 && self.free_blocks().is_some_and(|free| new > free) {
            self.struck("write found no room");
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.blocks.extend(wanted);
        Ok(())
    }

    /// Blocks that the disk has to give; none where there is room without end.
    fn free_blocks(&self) -> Option<u64> {
        let room = self.room?;
        let reserve = if room.reserved { room.reserve } else { 0 };
        Some(room.blocks.saturating_sub(self.blocks.len() as u64 + reserve))
    }

    fn check_power(&mut self) -> io::Result<()> {
        if !self.off && strikes(&mut self.faults.crash_in) {
            self.off = true;
            self.struck("power cut at a call");
        }
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.check_power()?;
        if self.lies {
            return Ok(());
        }
        let failing = strikes(&mut self.faults.sync_in);
        if failing {
            // What did not land is gone from the cache too: the engine has the system drop it before it reopens.
            self.lose_unsynced();
            self.struck("sync failed");
            return Err(io::Error::other("the sync failed"));
        }
        self.durable.resize(self.current.len(), 0);
        self.lengths.clear();
        for sector in std::mem::take(&mut self.dirty).into_keys() {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.current.len());
            // What lay behind a file that was cut is gone.
            if start < end {
                self.durable[start..end].copy_from_slice(&self.current[start..end]);
            }
        }
        Ok(())
    }
}

impl SimDisk {
    pub(super) fn new(random: fastrand::Rng) -> Self {
        Self(Arc::new(Mutex::new(Media {
            durable: Vec::new(),
            current: Vec::new(),
            dirty: BTreeMap::new(),
            lengths: Vec::new(),
            faults: Faults::default(),
            struck: BTreeMap::new(),
            blocks: BTreeSet::new(),
            room: None,
            told_free: u64::MAX,
            off: false,
            lies: false,
            random,
        })))
    }

    fn media(&self) -> MutexGuard<'_, Media> {
        self.0.lock().expect("no test thread panics while it holds the disk")
    }

    pub(super) fn set_faults(&self, faults: Faults) {
        self.media().faults = faults;
    }

    /// How often what went wrong.
    pub(super) fn struck(&self) -> BTreeMap<&'static str, u64> {
        self.media().struck.clone()
    }

    /// What it is told to do wrong as yet.
    pub(super) fn faults(&self) -> Faults {
        self.media().faults
    }

    pub(super) fn set_lies(&self, lies: bool) {
        self.media().lies = lies;
    }

    /// Leaves so many bytes free beside the data file and a reserve of `reserve_bytes`, which is there if it was; none: room without end.
    pub(super) fn set_room(&self, free_bytes: Option<u64>, reserve_bytes: u64) {
        let mut media = self.media();
        let reserve = reserve_bytes / BLOCK_BYTES;
        let reserved = media.room.is_none_or(|room| room.reserved);
        let used = media.blocks.len() as u64 + if reserved { reserve } else { 0 };
        media.room = free_bytes.map(|free| Room { blocks: used + free / BLOCK_BYTES, reserve, reserved });
    }

    /// How many free bytes the disk told of last.
    pub(super) fn told_free(&self) -> u64 {
        self.media().told_free
    }

    /// Whether the power is off.
    pub(super) fn is_off(&self) -> bool {
        self.media().off
    }

    /// Whether the disk is full at the moment.
    pub(super) fn is_full(&self) -> bool {
        self.media().faults.full_for > 0
    }

    /// Cuts the power now.
    pub(super) fn cut_power(&self) {
        self.media().off = true;
    }

    /// A new process on the same machine: all faults are over, and nothing is lost.
    pub(super) fn revive(&self) {
        let mut media = self.media();
        media.off = false;
        media.faults = Faults::default();
    }

    /// What survived is there again; all faults are over.
    pub(super) fn restore_power(&self) {
        let mut media = self.media();
        media.lose_unsynced();
        media.off = false;
        media.faults = Faults::default();
    }
}

impl StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.media().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut media = self.media();
        media.check_power()?;
        if strikes(&mut media.faults.read_in) {
            media.struck("read failed");
            return Err(io::Error::other("the read failed"));
        }
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = media.current.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut media = self.media();
        media.check_power()?;
        media.check_space()?;
        let (old, new) = (media.current.len(), usize::try_from(len).map_err(io::Error::other)?);
        media.current.resize(new, 0);
        media.lengths.push(new);
        media.blocks.retain(|block| block * BLOCK_BYTES < len);
        if new > old {
            // What a shorter file lost is zero when it grows back.
            media.touch(old, new);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.media().sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut media = self.media();
        media.check_power()?;
        if strikes(&mut media.faults.panic_in) {
            drop(media);
            panic!("this page is not a page");
        }
        media.check_space()?;
        media.take_room(offset, offset + data.len() as u64)?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + data.len();
        media.current.get_mut(start..end).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        media.touch(start, end);
        Ok(())
    }
}

impl Disk for SimDisk {
    fn open(&mut self, builder: &Builder) -> Result<Database, DatabaseError> {
        builder.create_with_backend(self.clone())
    }

    fn bytes(&self) -> u64 {
        self.media().current.len() as u64
    }

    fn path(&self) -> &Path {
        Path::new("simulated")
    }

    fn space(&self) -> Option<Space> {
        let mut media = self.media();
        let file = media.blocks.len() as u64 * BLOCK_BYTES;
        let free = media.free_blocks()? * BLOCK_BYTES;
        media.told_free = free;
        Some(Space { free, file })
    }

    fn release_reserve(&mut self) -> bool {
        self.media().room.as_mut().is_some_and(|room| std::mem::take(&mut room.reserved))
    }

    fn keep_reserve(&mut self) {
        let mut media = self.media();
        let free = media.free_blocks();
        if let (Some(room), Some(free)) = (&mut media.room, free) {
            room.reserved |= free / 2 >= room.reserve;
        }
    }
}

#[test]
fn what_was_synced_survives_and_sectors_tear() {
    let disk = SimDisk::new(fastrand::Rng::with_seed(3));
    disk.set_len(64 * 512).expect("grows");
    disk.write(0, &[1; 64 * 512]).expect("writes");
    disk.sync_data().expect("syncs");
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        disk.write(0, &[2; 64 * 512]).expect("writes");
        disk.cut_power();
        assert!(disk.read(0, &mut [0]).is_err());
        disk.restore_power();
        let media = disk.media();
        let of = |sector| Media::sector(&media.current, sector);
        assert!((0..64).all(|sector| of(sector).iter().all(|byte| *byte == of(sector)[0])), "a sector was torn");
        seen.insert((0..64).filter(|sector| of(*sector)[0] == 2).count());
        drop(media);
        disk.write(0, &[1; 64 * 512]).expect("writes");
        disk.sync_data().expect("syncs");
    }
    assert!(seen.contains(&0) && seen.contains(&64) && seen.len() > 3, "all, none and some survive: {seen:?}");
}
