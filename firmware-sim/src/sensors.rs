//! Signals that look like what real sensors measure, the same for the same seed.
//!
//! Values are rounded to thousandths, so that their shortest decimal text is short and every decoder that
//! reads it gets exactly the same `f64` back: the reckoning compares values bit by bit.

use fastrand::Rng;

/// What a sensor measures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Signal {
    /// Wanders within bounds, a step at most at a time, pulled gently back to the middle.
    Walk { min: f64, max: f64, step: f64 },
    /// A sine with noise on it, around 0.
    Vibration {
        amplitude: f64,
        /// How long one turn of it takes.
        period_ms: f64,
        /// The greatest deviation from it.
        noise: f64,
    },
    /// Only ever grows, by 0 up to a most at a time.
    Counter { most: u32 },
    /// 0 or 1, and changes now and then.
    Door {
        /// The average number of readings between two changes.
        every: u32,
    },
    /// One of two levels with noise on it: a machine that runs or stands.
    Duty {
        idle: f64,
        busy: f64,
        /// The average number of readings between two changes.
        every: u32,
    },
}

/// One sensor: a signal and where it is.
#[derive(Debug, Clone)]
pub struct Sensor {
    signal: Signal,
    rng: Rng,
    level: f64,
}

impl Sensor {
    /// A sensor whose readings depend on nothing but `signal`, `seed` and the times it is asked at.
    pub fn new(signal: Signal, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let level = match signal {
            Signal::Walk { min, max, .. } => min + (max - min) * (0.3 + 0.4 * rng.f64()),
            Signal::Vibration { .. } => rng.f64() * std::f64::consts::TAU,
            Signal::Counter { .. } | Signal::Door { .. } | Signal::Duty { .. } => 0.0,
        };
        Self { signal, rng, level }
    }

    /// The reading at `now_ms`: finite, rounded to thousandths.
    pub fn read(&mut self, now_ms: u64) -> f64 {
        let rng = &mut self.rng;
        let value = match self.signal {
            Signal::Walk { min, max, step } => {
                let pull = ((min + max) / 2.0 - self.level) * 0.01;
                self.level = (self.level + pull + step * (rng.f64() * 2.0 - 1.0)).clamp(min, max);
                self.level
            }
            Signal::Vibration { amplitude, period_ms, noise } => {
                let turn = (now_ms as f64 % period_ms) / period_ms * std::f64::consts::TAU;
                amplitude * (turn + self.level).sin() + noise * (rng.f64() * 2.0 - 1.0)
            }
            Signal::Counter { most } => {
                self.level += f64::from(rng.u32(0..=most));
                self.level
            }
            Signal::Door { every } => {
                if rng.u32(0..every.max(1)) == 0 {
                    self.level = 1.0 - self.level;
                }
                self.level
            }
            Signal::Duty { idle, busy, every } => {
                if rng.u32(0..every.max(1)) == 0 {
                    self.level = 1.0 - self.level;
                }
                let at = if self.level > 0.5 { busy } else { idle };
                at * (0.98 + 0.04 * rng.f64())
            }
        };
        (value * 1_000.0).round() / 1_000.0 + 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Signal; 5] = [
        Signal::Walk { min: -10.0, max: 40.0, step: 0.2 },
        Signal::Vibration { amplitude: 2.0, period_ms: 700.0, noise: 0.1 },
        Signal::Counter { most: 3 },
        Signal::Door { every: 20 },
        Signal::Duty { idle: 40.0, busy: 2_300.0, every: 30 },
    ];

    #[test]
    fn the_same_seed_measures_the_same_and_another_does_not() {
        for signal in ALL {
            let run = |seed| {
                let mut sensor = Sensor::new(signal, seed);
                (0..200).map(|i| sensor.read(i * 100)).collect::<Vec<f64>>()
            };
            assert_eq!(run(7), run(7));
            assert_ne!(run(7), run(8), "{signal:?}");
        }
    }

    #[test]
    fn every_value_survives_its_decimal_text_and_lies_where_it_should() {
        for signal in ALL {
            let mut sensor = Sensor::new(signal, 3);
            for i in 0..5_000 {
                let value = sensor.read(1_764_000_000_000 + i * 100);
                let text = value.to_string();
                assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits());
                let json: f64 = serde_json::from_str(&text).unwrap();
                assert_eq!(json.to_bits(), value.to_bits());
                if let Signal::Walk { min, max, .. } = signal {
                    assert!((min..=max).contains(&value));
                }
            }
        }
    }
}
