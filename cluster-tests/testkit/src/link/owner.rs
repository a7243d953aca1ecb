//! Which process opened a TCP connection on this machine. Linux only: elsewhere nobody is found.

use std::fs;
use std::path::Path;

/// The one of `candidates` that holds the socket from `source_port` to `target_port`.
pub(crate) fn find(source_port: u16, target_port: u16, candidates: &[u32]) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().filter_map(|path| fs::read_to_string(path).ok());
    let inode = tables.filter_map(|table| inode_of(&table, source_port, target_port)).next()?;
    let link = format!("socket:[{inode}]");
    candidates.iter().copied().find(|pid| holds(*pid, &link))
}

/// Finds the row of the socket in the form of `/proc/net/tcp`: number, local and remote address, state, …, inode.
fn inode_of(table: &str, source_port: u16, target_port: u16) -> Option<u64> {
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    table.lines().skip(1).find_map(|row| {
        let mut columns = row.split_whitespace().skip(1);
        let (local, remote) = (columns.next()?, columns.next()?);
        let matches = port(local) == Some(source_port) && port(remote) == Some(target_port);
        if matches { columns.nth(6)?.parse().ok().filter(|inode| *inode != 0) } else { None }
    })
}

fn holds(pid: u32, link: &str) -> bool {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(link)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2CAC 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11111 1 0 100 0 0 10 0
   1: 0100007F:C001 0100007F:2CAC 01 00000000:00000000 00:00000000 00000000     0        0 22222 1 0 20 4 30 10 -1
   2: 0100007F:2CAC 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 33333 1 0 20 4 30 10 -1
   3: 0100007F:C002 0100007F:2CAC 06 00000000:00000000 03:00000000 00000000     0        0 0 3 0
";

    #[test]
    fn finds_the_callers_end_not_the_called_ones() {
        assert_eq!(inode_of(TABLE, 0xC001, 0x2CAC), Some(22_222));
        assert_eq!(inode_of(TABLE, 0xC002, 0x2CAC), None);
        assert_eq!(inode_of(TABLE, 0xC003, 0x2CAC), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn recognises_this_process_as_the_caller() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("bind");
        let target = listener.local_addr().expect("bound");
        let caller = std::net::TcpStream::connect(target).expect("connect");
        let source = caller.local_addr().expect("connected");
        let own = std::process::id();
        assert_eq!(find(source.port(), target.port(), &[1, own]), Some(own));
        assert_eq!(find(source.port(), target.port(), &[]), None);
    }
}
