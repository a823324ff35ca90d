//! How far away another site is in time, and how its clock differs.
//!
//! As NTP does it (RFC 5905, 8): of the four times of an exchange follow the way there and back, and the clocks' difference if the two
//! ways take equally long. They take that the less likely the longer they take, so the exchange with the shortest way of the last few
//! tells the difference.

/// Exchanges that are remembered.
const SAMPLES: usize = 8;

/// A longer exchange tells nothing, in microseconds.
const LONGEST_US: i64 = 60_000_000;

/// Stamps are corrected by whole seconds, so that two sites whose clocks agree keep stamps that are equal to the bit.
const STEP_MS: i64 = 1000;

/// The correction stays until the difference has moved from it by so much.
const SLACK_MS: i64 = 750;

/// What is known of one other site's clock.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Way there and back, and by how much the other's clock is ahead, both in microseconds; the oldest is overwritten.
    samples: Vec<(i64, i64)>,
    next: usize,
    correction_ms: i64,
}

impl Clock {
    /// An exchange: sent and came back by this clock, received and replied by the other's; in microseconds since 1970. What makes no sense
    /// is left out.
    pub fn note(&mut self, sent_us: u64, received_us: u64, replied_us: u64, back_us: u64) {
        let times = [sent_us, received_us, replied_us, back_us].map(i64::try_from);
        let [Ok(sent), Ok(received), Ok(replied), Ok(back)] = times else { return };
        let (all, there) = (back - sent, replied - received);
        if !(0..=LONGEST_US).contains(&all) || !(0..=all).contains(&there) {
            return;
        }
        let ahead = ((received - sent) / 2).saturating_add((replied - back) / 2);
        let sample = (all - there, ahead);
        match self.samples.get_mut(self.next) {
            Some(place) => *place = sample,
            None => self.samples.push(sample),
        }
        self.next = (self.next + 1) % SAMPLES;
        let wanted = -self.ahead_us().unwrap_or(0) / 1000;
        if (wanted - self.correction_ms).abs() > SLACK_MS {
            self.correction_ms = (wanted + wanted.signum() * STEP_MS / 2) / STEP_MS * STEP_MS;
        }
    }

    fn best(&self) -> Option<&(i64, i64)> {
        self.samples.iter().min_by_key(|(way, _)| *way)
    }

    /// By how much the other's clock is ahead of this one, in microseconds.
    pub fn ahead_us(&self) -> Option<i64> {
        self.best().map(|(_, ahead)| *ahead)
    }

    /// The way there and back, in microseconds: the median of the last few.
    pub fn round_trip_us(&self) -> Option<u32> {
        let mut ways: Vec<i64> = self.samples.iter().map(|(way, _)| *way).collect();
        ways.sort_unstable();
        ways.get(ways.len() / 2).map(|way| u32::try_from(*way).unwrap_or(u32::MAX))
    }

    /// What is added to a stamp of the other's to have it by this clock, in milliseconds.
    pub fn correction_ms(&self) -> i64 {
        self.correction_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_exchange_tells_the_difference_whatever_the_others_met_with() {
        let mut clock = Clock::default();
        let exchange = |clock: &mut Clock, start: u64, ahead: i64, there: u64, back: u64| {
            let by_other = |time: u64| time.checked_add_signed(ahead).unwrap();
            clock.note(start, by_other(start + there), by_other(start + there + 50), start + there + 50 + back);
        };
        for n in 0..20 {
            // One way is jammed, now and then.
            let jam = if n % 3 == 0 { 0 } else { 400_000 };
            exchange(&mut clock, 1_000_000 * (n + 10), 2_345_000, 5_000 + jam, 5_000);
        }
        assert_eq!(clock.ahead_us(), Some(2_345_000));
        assert_eq!(clock.round_trip_us(), Some(410_000));
        assert_eq!(clock.correction_ms(), -2000);
    }

    #[test]
    fn clocks_that_agree_are_not_corrected_and_drift_is_followed_in_steps() {
        let mut clock = Clock::default();
        let mut at = |ahead_ms: i64| {
            for n in 10..10 + SAMPLES as u64 {
                let other = (n * 1_000_000).checked_add_signed(ahead_ms * 1000).unwrap();
                clock.note(n * 1_000_000, other, other, n * 1_000_000);
            }
            clock.correction_ms()
        };
        assert_eq!([at(0), at(700), at(-700)], [0, 0, 0]);
        assert_eq!([at(800), at(300), at(200), at(-5200)], [-1000, -1000, 0, 5000]);
    }

    #[test]
    fn times_that_cannot_be_are_left_out() {
        let mut clock = Clock::default();
        for times in [[u64::MAX; 4], [10, 5, 4, 20], [20, 5, 5, 10], [10, 0, 90, 20], [0, 0, 0, u64::MAX / 2]] {
            clock.note(times[0], times[1], times[2], times[3]);
        }
        assert_eq!((clock.ahead_us(), clock.round_trip_us(), clock.correction_ms()), (None, None, 0));
    }
}
