//! Values of made-up gauges that change over time (simulator.md §10.3). Called by `fake`.

use std::time::Duration;

use crate::base::duration::GoDuration;

/// A value over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Generator {
    /// The same at any time.
    Fixed(f64),
    /// Of this shape, from one value to another, in a period.
    Over(Shape, f64, f64, Duration),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// A sine.
    Oscillate,
    /// Straight, once.
    Ramp,
    /// Straight, again and again.
    RampReset,
    /// One value in the first half, the other in the second.
    SquareWave,
}

impl Generator {
    /// Reads `name:start:end:period`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("unknown format in fake metric generation function: {what}");
        let [name, start, end, period] = text.split(':').collect::<Vec<_>>()[..] else {
            return Err(wrong(
                "need func:start:end:period in fake metric generation function",
            ));
        };
        let shape = match name {
            "oscillate" => Shape::Oscillate,
            "ramp" => Shape::Ramp,
            "rampreset" => Shape::RampReset,
            "squarewave" => Shape::SquareWave,
            _ => {
                return Err(wrong(&format!(
                    "{name} is none of oscillate, ramp, rampreset, squarewave"
                )));
            }
        };
        let number = |text: &str| {
            let finite = text.parse::<f64>().ok().filter(|x| x.is_finite());
            finite.ok_or_else(|| wrong(&format!("{text} is not a number")))
        };
        let period = GoDuration::parse(period).ok().and_then(|d| d.to_std());
        let period = period.filter(|p| !p.is_zero());
        let period = period.ok_or_else(|| wrong("the period must be a positive duration"))?;
        Ok(Generator::Over(shape, number(start)?, number(end)?, period))
    }

    /// Its value `elapsed` after it began.
    pub fn at(&self, elapsed: Duration) -> f64 {
        let Generator::Over(shape, start, end, period) = *self else {
            let Generator::Fixed(value) = *self else {
                return 0.0;
            };
            return value;
        };
        let periods = elapsed.as_secs_f64() / period.as_secs_f64();
        match shape {
            Shape::Oscillate => {
                let (middle, amplitude) = ((start + end) / 2.0, (end - start) / 2.0);
                middle + amplitude * (std::f64::consts::TAU * periods).sin()
            }
            Shape::Ramp => start + (end - start) * periods.min(1.0),
            Shape::RampReset => start + (end - start) * periods.fract(),
            Shape::SquareWave if periods.fract() < 0.5 => start,
            Shape::SquareWave => end,
        }
    }

    /// Its least value.
    pub fn least(&self) -> f64 {
        match *self {
            Generator::Fixed(x) => x,
            Generator::Over(_, start, end, _) => start.min(end),
        }
    }

    /// Its greatest value.
    pub fn most(&self) -> f64 {
        match *self {
            Generator::Fixed(x) => x,
            Generator::Over(_, start, end, _) => start.max(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_their_values_over_time() {
        // function -> values at 0, 1/4, 1/2, 3/4 and 5/4 of the period
        let rows = [
            ("oscillate:0:10:4s", [5.0, 10.0, 5.0, 0.0, 10.0]),
            ("ramp:0:8:4s", [0.0, 2.0, 4.0, 6.0, 8.0]),
            ("rampreset:0:8:4s", [0.0, 2.0, 4.0, 6.0, 2.0]),
            ("squarewave:1:3:4s", [1.0, 1.0, 3.0, 3.0, 1.0]),
        ];
        for (text, expected) in rows {
            let g = Generator::parse(text).unwrap();
            for (seconds, value) in [0, 1, 2, 3, 5].into_iter().zip(expected) {
                let got = g.at(Duration::from_secs(seconds));
                assert!((got - value).abs() < 1e-9, "{text} at {seconds}: {got}");
            }
        }
    }
}
