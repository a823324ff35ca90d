//! How loaded this machine is, measured.

use std::time::{Duration, Instant};

/// Measured over so long at least.
const SPAN: Duration = Duration::from_secs(1);

/// CPU time and packets of the last seconds, each second's with a quarter of the weight.
#[derive(Default)]
pub struct Meter {
    /// When it was looked last, and what was there then: busy and all CPU time, packets ever.
    last: Option<(Instant, (u64, u64), u64)>,
    cpu_permille: Option<f64>,
    packets_per_s: Option<f64>,
}

impl Meter {
    /// Looks if it is time. `packets`: ever.
    pub fn look(&mut self, now: Instant, packets: impl FnOnce() -> u64) {
        let Some((at, cpu, before)) = self.last else {
            self.last = Some((now, cpu_time(), packets()));
            return;
        };
        let span = now.duration_since(at);
        if span < SPAN {
            return;
        }
        let (cpu_now, packets) = (cpu_time(), packets());
        let busy = share(cpu, cpu_now);
        self.cpu_permille = Some(smoothed(self.cpu_permille, busy));
        let rate = packets.saturating_sub(before) as f64 / span.as_secs_f64();
        self.packets_per_s = Some(smoothed(self.packets_per_s, rate));
        self.last = Some((now, cpu_now, packets));
    }

    /// Of all CPUs of the machine.
    pub fn cpu_permille(&self) -> u16 {
        self.cpu_permille.unwrap_or(0.0).round() as u16
    }

    pub fn packets_per_s(&self) -> u32 {
        self.packets_per_s.unwrap_or(0.0).round() as u32
    }
}

fn smoothed(old: Option<f64>, new: f64) -> f64 {
    old.map_or(new, |old| old + (new - old) / 4.0)
}

/// Of a thousand parts of the time between, those that were busy.
fn share(before: (u64, u64), now: (u64, u64)) -> f64 {
    let (busy, all) = (now.0.saturating_sub(before.0), now.1.saturating_sub(before.1));
    if all == 0 { 0.0 } else { (busy.min(all) * 1000) as f64 / all as f64 }
}

/// Busy and all CPU time of the machine, also that which the kernel's receive path takes, in ticks.
fn cpu_time() -> (u64, u64) {
    std::fs::read_to_string("/proc/stat").ok().and_then(|text| read(&text)).unwrap_or_default()
}

/// The first line of /proc/stat (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in user's already.
fn read(text: &str) -> Option<(u64, u64)> {
    let fields = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
    let times: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let idle = times.get(3)? + times.get(4).unwrap_or(&0);
    let all: u64 = times.iter().sum();
    Some((all - idle, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_what_proc_says() {
        assert_eq!(read("cpu  10 1 9 70 10 0 0 0 5 5\ncpu0 1 2\n"), Some((20, 100)));
        assert_eq!((read(""), read("cpu x")), (None, None));
        assert_eq!([share((0, 0), (25, 100)), share((5, 5), (5, 5)), share((9, 9), (0, 0))], [250.0, 0.0, 0.0]);
        assert!(cpu_time().1 > 0);
    }

    #[test]
    fn rates_are_smoothed_and_asked_for_once_a_second() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        meter.look(start, || 0);
        meter.look(start + SPAN / 2, || panic!("too soon"));
        assert_eq!(meter.packets_per_s(), 0);
        meter.look(start + SPAN, || 1000);
        assert_eq!(meter.packets_per_s(), 1000);
        meter.look(start + 3 * SPAN, || 1000);
        assert_eq!(meter.packets_per_s(), 750);
        assert!(meter.cpu_permille() <= 1000);
    }
}
