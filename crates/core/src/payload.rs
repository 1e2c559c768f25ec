//! When a payload that ended is started again. Pure: time is an argument.

use crate::board::Restart;

/// The window in which restarts are counted, in microseconds: 60 s.
pub const WINDOW_US: u64 = 60_000_000;
/// From an end to the next start, in microseconds: long enough that a program
/// which fails at once does not take the CPU, short enough not to be noticed.
pub const DELAY_US: u64 = 200_000;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start it at this time.
    StartAt(u64),
    /// It stays ended, as its rule says.
    Rest,
    /// It stays ended: its restarts in the window are used up.
    GiveUp,
}

/// The restarts of one payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restarts {
    window_begin_us: u64,
    in_window: u8,
}

impl Restarts {
    /// What follows the end of a payload at `now_us`.
    pub fn after(&mut self, end: End, rule: Restart, max: u8, now_us: u64) -> Next {
        let again = match rule {
            Restart::No => false,
            Restart::OnFailure => end != End::Exited(0),
            Restart::Always => true,
        };
        if !again {
            return Next::Rest;
        }
        if now_us.saturating_sub(self.window_begin_us) >= WINDOW_US {
            *self = Self { window_begin_us: now_us, in_window: 0 };
        }
        if self.in_window >= max {
            return Next::GiveUp;
        }
        self.in_window += 1;
        Next::StartAt(now_us.saturating_add(DELAY_US))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let mut restarts = Restarts::default();
        assert_eq!(restarts.after(End::Exited(1), Restart::No, 5, 0), Next::Rest);
        assert_eq!(restarts.after(End::Exited(0), Restart::OnFailure, 5, 0), Next::Rest);
        assert_eq!(
            restarts.after(End::Signalled(9), Restart::OnFailure, 5, 7),
            Next::StartAt(7 + DELAY_US)
        );
        assert_eq!(
            restarts.after(End::Exited(0), Restart::Always, 5, 9),
            Next::StartAt(9 + DELAY_US)
        );
    }

    #[test]
    fn a_crash_loop_is_bounded_and_the_window_moves_on() {
        let mut restarts = Restarts::default();
        let mut now = 1;
        for _ in 0..3 {
            let Next::StartAt(at) = restarts.after(End::Exited(1), Restart::Always, 3, now) else {
                panic!("within the bound");
            };
            now = at + 1;
        }
        assert_eq!(restarts.after(End::Exited(1), Restart::Always, 3, now), Next::GiveUp);
        now += WINDOW_US;
        assert_eq!(
            restarts.after(End::Exited(1), Restart::Always, 3, now),
            Next::StartAt(now + DELAY_US)
        );
    }
}
