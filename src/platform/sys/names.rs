//! Looking up host names.

use std::ffi::{c_char, c_int};
use std::sync::Once;

unsafe extern "C" {
    /// Of glibc's nss.h: chooses the services of a database for this process, whatever nsswitch.conf says.
    fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
}

/// Makes host names be looked up in `/etc/hosts` and by DNS alone. Both are inside of the C library; other services that
/// nsswitch.conf may name would be loaded, which a static program must not do.
pub fn only_built_in() {
    static ONCE: Once = Once::new();
    // SAFETY: both strings are constant and end with a zero, which is all that the function asks for.
    ONCE.call_once(|| unsafe {
        __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr());
    });
}
