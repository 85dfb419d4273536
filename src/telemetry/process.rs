//! Memory, CPU time, files and age of the process, from Linux's `/proc`. None on other systems.

use std::fs;

/// `USER_HZ`: ticks per second, identical on every Linux that this program is built for.
const TICKS: f64 = 100.0;

/// Resident memory.
pub(super) fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(kibibytes.parse::<f64>().ok()? * 1024.0)
}

/// Open file descriptors, without the one that this function opens.
pub(super) fn open_files() -> Option<f64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    Some(f64::from(u32::try_from(count).ok()?))
}

/// CPU seconds in user mode and in system mode.
pub(super) fn cpu_seconds() -> Option<(f64, f64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    Some((field(&stat, 14)? / TICKS, field(&stat, 15)? / TICKS))
}

/// Start of the process in seconds since 1970, and its age in seconds.
pub(super) fn start_and_uptime() -> Option<(f64, f64)> {
    let started = field(&fs::read_to_string("/proc/self/stat").ok()?, 22)? / TICKS;
    let up: f64 = fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    Some((boot + started, (up - started).max(0.0)))
}

/// A field of `/proc/self/stat` by its number in proc(5). The second, the command's name, may
/// contain blanks and brackets.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(number.checked_sub(3)?)?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_for_any_command_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 1 0 12345 1 1";
        assert_eq!([14, 15, 22].map(|number| field(stat, number)), [Some(250.0), Some(50.0), Some(12_345.0)]);
    }

    #[test]
    fn the_values_of_this_process_are_plausible() {
        assert!(resident_bytes().unwrap() > 1e6);
        assert!(open_files().unwrap() >= 3.0);
        assert!(cpu_seconds().is_some());
        let (start, uptime) = start_and_uptime().unwrap();
        assert!(start > 1e9 && uptime < 86_400.0, "{start} {uptime}");
    }
}
