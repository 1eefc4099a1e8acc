//! Random faults under load: a few seconds of each in every test run, and for any time when asked:
//!
//!     PELTON_TESTS_SECONDS=600 cargo test -p pelton-tests soak -- --nocapture --test-threads 1
//!
//! Each prints its seed and what it did; `PELTON_TESTS_SEED` repeats the choices of a seed, though not the pace of threads and disks.

mod clock_jumps;
mod disk_faults;
mod flipped_bits;
mod kill_9;
