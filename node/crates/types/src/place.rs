//! Where a daemon keeps its data when nobody says, so that daemon and administrator look in the same place.

use std::path::PathBuf;

/// The user that the packaged service runs as.
pub const SERVICE_USER: &str = "ollamax";
/// The service's data directory.
pub const SERVICE_DATA_DIR: &str = "/var/lib/ollamax";

/// The service's directory for the service user; else `ollamax` in the user's XDG data directory. `None` when the
/// environment names no home.
#[must_use]
pub fn default_data_dir(is_service_user: bool, xdg_data_home: Option<&str>, home: Option<&str>) -> Option<PathBuf> {
    if is_service_user {
        return Some(PathBuf::from(SERVICE_DATA_DIR));
    }
    let xdg = xdg_data_home.map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || home.filter(|home| !home.is_empty()).map(|home| PathBuf::from(home).join(".local/share"));
    xdg.or_else(home).map(|base| base.join("ollamax"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_has_its_place_and_others_follow_xdg() {
        let check = |service, xdg, home, expected: Option<&str>| {
            assert_eq!(default_data_dir(service, xdg, home), expected.map(PathBuf::from));
        };
        check(true, Some("/x"), Some("/h"), Some("/var/lib/ollamax"));
        check(false, Some("/x"), Some("/h"), Some("/x/ollamax"));
        check(false, Some("relative"), Some("/h"), Some("/h/.local/share/ollamax"));
        check(false, None, Some("/h"), Some("/h/.local/share/ollamax"));
        check(false, None, None, None);
    }
}
