//! The simulated disk as SQLite sees it: a VFS. The one file of the tests that needs `unsafe`.
//!
//! Each disk is registered under a name of its own, so that tests in parallel threads share nothing. What a call does
//! is told in `storage.rs`; here pointers become slices and errors become codes, and nothing may panic.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr::NonNull,
    slice,
    sync::{Mutex, MutexGuard, PoisonError, atomic},
};

use rusqlite::ffi::*;

use super::{
    locks::{HeldSlots, Level},
    storage::{FileId, Storage},
    troubles::DiskError,
};

/// A disk with the name SQLite knows it by; lives as long as the process, since SQLite keeps pointers to it.
pub struct Drive {
    name: &'static CStr,
    storage: Mutex<Storage>,
    memory: Mutex<Vec<Region>>,
}

/// Two copies of 48 bytes.
const INDEX_HEADER_WORDS: usize = 12;

/// A piece of memory that the connections to one database share; the address must not change while it is used.
struct Region {
    file: FileId,
    index: usize,
    words: NonNull<[u64]>,
}

// SAFETY: the memory is owned by the region alone and has no tie to a thread.
unsafe impl Send for Region {}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `words` came from `Box::leak` in `Region::new`, and is given back once.
        drop(unsafe { Box::from_raw(self.words.as_ptr()) });
    }
}

impl Region {
    fn new(file: FileId, index: usize, bytes: usize) -> Self {
        let words = Box::leak(vec![0u64; bytes.div_ceil(8)].into_boxed_slice());
        Self { file, index, words: NonNull::from(words) }
    }
}

impl Drive {
    /// Registers an empty disk under `name`, which must not have been used before.
    pub fn register(name: &'static CStr) -> &'static Drive {
        let drive: &'static Drive = Box::leak(Box::new(Drive {
            name,
            storage: Mutex::new(Storage::new(0)),
            memory: Mutex::new(Vec::new()),
        }));
        let vfs = Box::leak(Box::new(sqlite3_vfs {
            iVersion: 1,
            szOsFile: size_of::<Handle>() as c_int,
            mxPathname: 1024,
            pNext: std::ptr::null_mut(),
            zName: name.as_ptr(),
            pAppData: std::ptr::from_ref(drive).cast_mut().cast(),
            xOpen: Some(open),
            xDelete: Some(delete),
            xAccess: Some(access),
            xFullPathname: Some(full_pathname),
            xDlOpen: None,
            xDlError: None,
            xDlSym: None,
            xDlClose: None,
            xRandomness: Some(randomness),
            xSleep: Some(sleep),
            xCurrentTime: Some(current_time),
            xGetLastError: None,
            xCurrentTimeInt64: None,
            xSetSystemCall: None,
            xGetSystemCall: None,
            xNextSystemCall: None,
        }));
        // SAFETY: the structure and everything it points to lives for ever, and its functions keep SQLite's contract.
        let code = unsafe { sqlite3_vfs_register(vfs, 0) };
        assert_eq!(code, SQLITE_OK, "SQLite takes another VFS");
        drive
    }

    pub fn name(&self) -> &'static str {
        self.name.to_str().expect("names of disks are ASCII")
    }

    pub fn storage(&self) -> MutexGuard<'_, Storage> {
        self.storage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Overwrites the header of the index that the connections to `file` share: whoever looks at it builds it anew.
    pub fn forget_index(&self, file: FileId) {
        for region in self.memory().iter().filter(|region| (region.file, region.index) == (file, 0)) {
            // SAFETY: the region lives while the list is locked; SQLite takes another process's writes at any time.
            unsafe {
                region.words.as_ptr().cast::<[u64; INDEX_HEADER_WORDS]>().write([0; INDEX_HEADER_WORDS])
            };
        }
    }

    fn memory(&self) -> MutexGuard<'_, Vec<Region>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open file; SQLite allocates it and knows its beginning only.
#[repr(C)]
struct Handle {
    base: sqlite3_file,
    drive: &'static Drive,
    file: FileId,
    /// The next flush must bring the directory to the storage too: the file may be new.
    flush_directory: bool,
    level: Level,
    slots: HeldSlots,
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

fn code(result: Result<(), DiskError>, io_error: c_int) -> c_int {
    match result {
        Ok(()) => SQLITE_OK,
        Err(DiskError::Full) => SQLITE_FULL,
        Err(DiskError::Io | DiskError::Gone) => io_error,
    }
}

/// The handle behind `file`.
///
/// # Safety
/// `file` was filled by [`open`] and not closed since, and SQLite uses it from one thread at a time.
unsafe fn handle<'a>(file: *mut sqlite3_file) -> &'a mut Handle {
    // SAFETY: SQLite hands back the memory it gave to `open`, which wrote a `Handle` into it.
    unsafe { &mut *file.cast::<Handle>() }
}

/// The drive a VFS stands for.
///
/// # Safety
/// `vfs` was made by [`Drive::register`].
unsafe fn drive(vfs: *mut sqlite3_vfs) -> &'static Drive {
    // SAFETY: `register` put a reference to a leaked drive there.
    unsafe { &*(*vfs).pAppData.cast::<Drive>() }
}

/// The name of a file, or nothing for one that has none.
///
/// # Safety
/// `name` is null or ends with a zero.
unsafe fn file_name(name: *const c_char) -> Option<String> {
    // SAFETY: the caller says so.
    (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
}

// ---- the disk ---------------------------------------------------------------------------------------------

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes our VFS, a name that ends with a zero, and `szOsFile` bytes for the handle.
    unsafe {
        (*file).pMethods = std::ptr::null();
        // Nothing spills: temporary tables are kept in memory.
        let Some(name) = file_name(name) else { return SQLITE_CANTOPEN };
        let drive = drive(vfs);
        let create = flags & SQLITE_OPEN_CREATE != 0;
        let opened = drive.storage().open(&name, create);
        let id = match opened {
            Ok(id) => id,
            Err(DiskError::Full) => return SQLITE_FULL,
            Err(_) => return SQLITE_CANTOPEN,
        };
        let is_journal = flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL) != 0;
        file.cast::<Handle>().write(Handle {
            base: sqlite3_file { pMethods: &METHODS },
            drive,
            file: id,
            flush_directory: create && is_journal,
            level: Level::None,
            slots: HeldSlots::default(),
        });
        if !out_flags.is_null() {
            *out_flags = flags;
        }
        SQLITE_OK
    }
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    // SAFETY: SQLite passes our VFS and a name that ends with a zero.
    let (drive, name) = unsafe { (drive(vfs), file_name(name)) };
    let Some(name) = name else { return SQLITE_IOERR_DELETE };
    let deleted = drive.storage().delete(&name, sync_dir != 0);
    match deleted {
        Ok(false) => SQLITE_IOERR_DELETE_NOENT,
        other => code(other.map(drop), SQLITE_IOERR_DELETE),
    }
}

unsafe extern "C" fn access(
    vfs: *mut sqlite3_vfs,
    name: *const c_char,
    _flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes our VFS, a name that ends with a zero, and room for the answer.
    unsafe {
        let exists = file_name(name).is_some_and(|name| drive(vfs).storage().exists(&name));
        *out = c_int::from(exists);
    }
    SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut sqlite3_vfs,
    name: *const c_char,
    room: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: the name ends with a zero, and `out` has room for `room` bytes.
    unsafe {
        let bytes = CStr::from_ptr(name).to_bytes_with_nul();
        if bytes.len() > room as usize {
            return SQLITE_CANTOPEN;
        }
        out.copy_from_nonoverlapping(bytes.as_ptr().cast(), bytes.len());
    }
    SQLITE_OK
}

unsafe extern "C" fn randomness(_vfs: *mut sqlite3_vfs, count: c_int, out: *mut c_char) -> c_int {
    // SAFETY: `out` has room for `count` bytes. SQLite's own chance comes from the default VFS.
    unsafe { out.write_bytes(0, count as usize) };
    count
}

unsafe extern "C" fn sleep(_vfs: *mut sqlite3_vfs, microseconds: c_int) -> c_int {
    microseconds
}

unsafe extern "C" fn current_time(_vfs: *mut sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: `out` has room for the answer: a Julian day in 1970, since nothing may depend on it.
    unsafe { *out = 2_440_587.5 };
    SQLITE_OK
}

// ---- one file ---------------------------------------------------------------------------------------------

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: SQLite passes an open handle, here and below.
    let handle = unsafe { handle(file) };
    release_memory(handle);
    let mut storage = handle.drive.storage();
    if let Some(locks) = storage.locks.get_mut(&handle.file) {
        locks.lower(&mut handle.level, Level::None);
    }
    storage.close(handle.file);
    SQLITE_OK
}

unsafe extern "C" fn read(file: *mut sqlite3_file, out: *mut c_void, count: c_int, at: i64) -> c_int {
    // SAFETY: `out` has room for `count` bytes.
    let (handle, out) = unsafe { (handle(file), slice::from_raw_parts_mut(out.cast(), count as usize)) };
    let found = handle.drive.storage().read(handle.file, at as usize, out);
    match found {
        Ok(found) if found == out.len() => SQLITE_OK,
        Ok(_) => SQLITE_IOERR_SHORT_READ,
        Err(_) => SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn write(file: *mut sqlite3_file, bytes: *const c_void, count: c_int, at: i64) -> c_int {
    // SAFETY: `bytes` holds `count` bytes.
    let (handle, bytes) = unsafe { (handle(file), slice::from_raw_parts(bytes.cast(), count as usize)) };
    code(handle.drive.storage().write(handle.file, at as usize, bytes), SQLITE_IOERR_WRITE)
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, length: i64) -> c_int {
    // SAFETY: see `close`.
    let handle = unsafe { handle(file) };
    code(handle.drive.storage().truncate(handle.file, length as usize), SQLITE_IOERR_TRUNCATE)
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: see `close`.
    let handle = unsafe { handle(file) };
    let synced = handle.drive.storage().sync(handle.file, handle.flush_directory);
    if synced.is_ok() {
        handle.flush_directory = false;
    }
    code(synced, SQLITE_IOERR_FSYNC)
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: `out` has room for the answer.
    unsafe {
        let handle = handle(file);
        *out = handle.drive.storage().length(handle.file) as i64;
    }
    SQLITE_OK
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see `close`.
    let handle = unsafe { handle(file) };
    let mut storage = handle.drive.storage();
    let locks = storage.locks.entry(handle.file).or_default();
    match locks.raise(&mut handle.level, level_of(level)) {
        Ok(()) => SQLITE_OK,
        Err(_) => SQLITE_BUSY,
    }
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    // SAFETY: see `close`.
    let handle = unsafe { handle(file) };
    let mut storage = handle.drive.storage();
    storage.locks.entry(handle.file).or_default().lower(&mut handle.level, level_of(level));
    SQLITE_OK
}

fn level_of(level: c_int) -> Level {
    match level {
        SQLITE_LOCK_NONE => Level::None,
        SQLITE_LOCK_SHARED => Level::Shared,
        SQLITE_LOCK_RESERVED => Level::Reserved,
        SQLITE_LOCK_PENDING => Level::Pending,
        _ => Level::Exclusive,
    }
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: `out` has room for the answer.
    unsafe {
        let handle = handle(file);
        let reserved = handle.drive.storage().locks.get(&handle.file).is_some_and(|l| l.is_reserved());
        *out = c_int::from(reserved);
    }
    SQLITE_OK
}

unsafe extern "C" fn file_control(_file: *mut sqlite3_file, _op: c_int, _arg: *mut c_void) -> c_int {
    SQLITE_NOTFOUND
}

// As SQLite's own VFS answers on Linux.

unsafe extern "C" fn sector_size(_file: *mut sqlite3_file) -> c_int {
    4096
}

unsafe extern "C" fn device_characteristics(_file: *mut sqlite3_file) -> c_int {
    SQLITE_IOCAP_POWERSAFE_OVERWRITE | SQLITE_IOCAP_SUBPAGE_READ
}

// ---- the memory that connections share --------------------------------------------------------------------

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    index: c_int,
    bytes: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    // SAFETY: see `close`.
    let handle = unsafe { handle(file) };
    let (id, index) = (handle.file, index as usize);
    let mut memory = handle.drive.memory();
    let mut found = memory.iter().find(|region| (region.file, region.index) == (id, index));
    if found.is_none() && extend != 0 {
        memory.push(Region::new(id, index, bytes as usize));
        found = memory.last();
    }
    let address = found.map_or(std::ptr::null_mut(), |region| region.words.as_ptr().cast());
    // SAFETY: `out` has room for the answer; the region lives until the last handle of the file lets go of it.
    unsafe { *out = address };
    SQLITE_OK
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, first: c_int, count: c_int, flags: c_int) -> c_int {
    // SAFETY: see `close`.
    let handle = unsafe { handle(file) };
    let (first, count) = (first as usize, count as usize);
    let mut storage = handle.drive.storage();
    let locks = storage.locks.entry(handle.file).or_default();
    if flags & SQLITE_SHM_UNLOCK != 0 {
        locks.unlock_slots(&mut handle.slots, first, count);
        return SQLITE_OK;
    }
    match locks.lock_slots(&mut handle.slots, first, count, flags & SQLITE_SHM_EXCLUSIVE != 0) {
        Ok(()) => SQLITE_OK,
        Err(_) => SQLITE_BUSY,
    }
}

unsafe extern "C" fn shm_barrier(_file: *mut sqlite3_file) {
    atomic::fence(atomic::Ordering::SeqCst);
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, _delete: c_int) -> c_int {
    // SAFETY: see `close`.
    release_memory(unsafe { handle(file) });
    SQLITE_OK
}

/// Lets go of the slots, and of the memory if this is the file's last handle: like a process that ends, whoever opens
/// the file next builds it anew from the log.
fn release_memory(handle: &mut Handle) {
    let mut storage = handle.drive.storage();
    let Some(locks) = storage.locks.get_mut(&handle.file) else { return };
    locks.unlock_slots(&mut handle.slots, 0, super::locks::SHARED_MEMORY_SLOTS);
    let is_last = locks.handles == 1;
    drop(storage);
    if is_last {
        handle.drive.memory().retain(|region| region.file != handle.file);
    }
}
