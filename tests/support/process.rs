//! What the kernel says about a process: memory, descriptors, time on the processor, signals.

use std::{fs, process::Command};

use rustix::process::{Pid, Signal, kill_process};

/// Ticks of `/proc/PID/stat` in a second: 100 on every Linux that matters.
pub const TICKS_PER_SECOND: u64 = 100;

/// Resident memory, in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is alive");
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has a VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("VmRSS is a number")
}

/// Open descriptors.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is alive").count()
}

/// Ticks spent on the processor, in the kernel and out of it.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is alive");
    let after_name = stat.rsplit(')').next().expect("the name stands in brackets");
    let field = |n: usize| -> u64 {
        after_name.split_whitespace().nth(n).and_then(|text| text.parse().ok()).expect("a tick count")
    };
    field(11) + field(12)
}

/// Nanoseconds its threads have spent on the processor; in steps of a tick where the kernel counts no finer.
pub fn cpu_nanoseconds(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is alive");
    let spent = threads.map(|thread| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    spent.sum::<Option<u64>>().unwrap_or_else(|| cpu_ticks(pid) * (1_000_000_000 / TICKS_PER_SECOND))
}

/// Sends a signal.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid fits")).expect("a pid is not zero");
    kill_process(pid, signal).expect("the process is ours and alive");
}

/// Whether `program` can be started at all.
pub fn installed(program: &str) -> bool {
    Command::new("sh")
        .args(["-c", "command -v \"$0\"", program])
        .output()
        .is_ok_and(|out| out.status.success())
}
