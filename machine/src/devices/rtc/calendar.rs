//! Seconds since 1970 and the calendar's fields, and how the chip writes them.

/// Seconds in a day.
pub(super) const DAY: i64 = 86_400;

/// Status register B: the registers hold binary numbers, not BCD.
pub(super) const B_BINARY: u8 = 4;
/// Status register B: hours go from 0 to 23, not 1 to 12 with bit 7 for PM.
pub(super) const B_24H: u8 = 2;

/// The time registers in the chip's order: seconds, minutes, hours, day of week, day, month, year, century.
pub(super) type Fields = [u8; 8];

/// Days since 1970-01-01 of a date in the Gregorian calendar.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March here, so that the leap day is a year's last; 400 of them make a full cycle.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // Months from March on have 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31 days: 153 in five.
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The year, month and day that is `days` after 1970-01-01.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let cycle = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let in_month = day - (153 * month + 2) / 5 + 1;
    let (carry, month) = if month < 10 {
        (0, month + 3)
    } else {
        (1, month - 9)
    };
    (cycle * 400 + year + carry, month, in_month)
}

fn to_register(value: i64, b: u8) -> u8 {
    let value = value.rem_euclid(100) as u8;
    if b & B_BINARY != 0 {
        value
    } else {
        ((value / 10) << 4) | (value % 10)
    }
}

fn from_register(value: u8, b: u8) -> i64 {
    i64::from(if b & B_BINARY != 0 {
        value
    } else {
        (value >> 4) * 10 + (value & 15)
    })
}

fn hour_to_register(hour: i64, b: u8) -> u8 {
    if b & B_24H != 0 {
        return to_register(hour, b);
    }
    let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
    to_register(twelve, b) | if hour >= 12 { 0x80 } else { 0 }
}

/// The time of day in the chip's form: seconds, minutes, hours.
pub(super) fn time_fields(seconds: i64, b: u8) -> [u8; 3] {
    let of_day = seconds.rem_euclid(DAY);
    [
        to_register(of_day % 60, b),
        to_register(of_day / 60 % 60, b),
        hour_to_register(of_day / 3600, b),
    ]
}

/// All fields in the chip's form.
pub(super) fn fields(seconds: i64, b: u8) -> Fields {
    let days = seconds.div_euclid(DAY);
    let (year, month, day) = date_of(days);
    let [s, m, h] = time_fields(seconds, b);
    // 1970-01-01 was a Thursday, and Sunday is 1.
    let weekday = (days + 4).rem_euclid(7) + 1;
    let two = |v| to_register(v, b);
    [
        s,
        m,
        h,
        two(weekday),
        two(day),
        two(month),
        two(year),
        two(year.div_euclid(100)),
    ]
}

/// What the fields mean. Fields out of range run over into the next, as a date may on the 31st of a short month.
pub(super) fn seconds(fields: &Fields, b: u8) -> i64 {
    let [s, m, h, _, day, month, year, century] = *fields;
    let number = |v| from_register(v, b);
    let hour = if b & B_24H != 0 {
        number(h)
    } else {
        number(h & 0x7f) % 12 + if h & 0x80 != 0 { 12 } else { 0 }
    };
    let year = number(century) * 100 + number(year);
    let month = number(month).clamp(1, 12);
    days_of(year, month, number(day)) * DAY + hour * 3600 + number(m) * 60 + number(s)
}

#[cfg(test)]
mod tests {
    use super::{B_24H, B_BINARY, fields, seconds};

    #[test]
    fn known_dates() {
        assert_eq!(fields(0, B_24H), [0, 0, 0, 5, 1, 1, 0x70, 0x19]);
        // 2024-02-29 13:59:58 UTC, a Thursday.
        assert_eq!(
            fields(1_709_215_198, B_24H),
            [0x58, 0x59, 0x13, 5, 0x29, 2, 0x24, 0x20]
        );
        assert_eq!(
            fields(1_709_215_198, B_BINARY),
            [58, 59, 0x81, 5, 29, 2, 24, 20]
        );
    }

    #[test]
    fn every_format_round_trips() {
        for b in [0, B_24H, B_BINARY, B_24H | B_BINARY] {
            for step in 0..20_000 {
                let time = step * 12_345_678 - 40_000_000_000;
                assert_eq!(seconds(&fields(time, b), b), time, "format {b}");
            }
        }
    }

    #[test]
    fn any_bytes_mean_some_time() {
        for b in 0..8 {
            for byte in 0..=255 {
                seconds(&[byte; 8], b);
            }
        }
    }
}
