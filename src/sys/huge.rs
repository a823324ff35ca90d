//! Large tables in huge pages.

/// An array of `len` values made by `fill`, on transparent huge pages where the kernel gives them: a random access into
/// gigabytes of 4 KB pages costs a page walk on top of the cache miss. All of it is touched here, so nothing faults later.
pub fn boxed<T>(len: usize, fill: impl FnMut(usize) -> T) -> Box<[T]> {
    let mut values: Vec<T> = Vec::with_capacity(len);
    let room = values.spare_capacity_mut();
    let (start, bytes) = (room.as_mut_ptr() as usize, std::mem::size_of_val(room));
    // SAFETY: sysconf reads a constant.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let first = start.next_multiple_of(page);
    let whole = (start + bytes).saturating_sub(first) / page * page;
    if whole > 0 {
        // SAFETY: the range lies within the vector's own allocation, and the advice only chooses page sizes: it
        // changes no contents. That it is refused (no such kernel option) does not matter.
        unsafe { libc::madvise(first as *mut libc::c_void, whole, libc::MADV_HUGEPAGE) };
    }
    values.extend((0..len).map(fill));
    values.into_boxed_slice()
}
