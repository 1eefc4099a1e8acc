//! Data folders and files: opening them, copying them while they are in use, putting copies in place, checking them, and
//! taking messages out of them and into them.

mod backup;
mod damage;
mod dump;
mod flips;

mod open;
mod restore;
mod support;
mod verify;
