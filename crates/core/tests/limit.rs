//! Properties of limits.
//!
//! The oracles are a double, as systemd's own, and 128-bit integers.

use plimsoll_core::limit::{Limit, Memory};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

const PAGES_BYTES: [u64; 3] = [4096, 16_384, 65_536];

fn memory() -> impl Strategy<Value = Memory> {
    // Up to 64 PiB in the smallest pages.
    (0..1_u64 << 44, 0..PAGES_BYTES.len())
        .prop_map(|(total_pages, page)| Memory { total_pages, page_bytes: PAGES_BYTES[page] })
}

fn limit() -> impl Strategy<Value = Limit> {
    prop_oneof![
        Just(Limit::Infinity),
        (0..=10_000_u32).prop_map(Limit::Permyriad),
        (0..u64::MAX).prop_map(Limit::Bytes),
    ]
}

proptest! {
    #[test]
    fn display_is_read_back(limit in limit()) {
        prop_assert_eq!(Limit::parse(&limit.to_string()), Ok(limit));
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".*", memory in memory()) {
        if let Ok(limit) = Limit::parse(&text) {
            let _ = limit.kernel_bytes(memory);
        }
    }

    #[test]
    fn anything_like_a_limit_is_read_or_refused(text in "[ +0-9xb.%‰‱BKMGTPE-]{0,24}") {
        if let Ok(Limit::Permyriad(part)) = Limit::parse(&text) {
            prop_assert!(part <= 10_000);
        }
    }

    #[test]
    fn a_percentage_is_the_exact_floor(part in 0..=10_000_u32, memory in memory()) {
        let pages = u128::from(memory.total_pages) * u128::from(part) / 10_000;
        let bytes = pages * u128::from(memory.page_bytes);
        let limit = Limit::Permyriad(part);
        prop_assert_eq!(u128::from(limit.bytes(memory)), bytes);
        prop_assert!(limit.bytes(memory) <= memory.total_pages * memory.page_bytes);
        prop_assert_eq!(limit.kernel_bytes(memory), Some(limit.bytes(memory)));
    }

    #[test]
    fn more_percent_is_never_less(a in 0..=10_000_u32, b in 0..=10_000_u32, memory in memory()) {
        let bytes = |part| Limit::Permyriad(part).bytes(memory);
        prop_assert!(bytes(a.min(b)) <= bytes(a.max(b)));
    }

    #[test]
    fn the_kernels_bytes_are_whole_pages(limit in limit(), memory in memory()) {
        if let Some(bytes) = limit.kernel_bytes(memory) {
            prop_assert_eq!(bytes % memory.page_bytes, 0);
            prop_assert!(bytes <= limit.bytes(memory));
            prop_assert!(limit.bytes(memory) - bytes < memory.page_bytes);
        } else {
            prop_assert!(limit.bytes(memory) >= i64::MAX.unsigned_abs() / memory.page_bytes * memory.page_bytes);
        }
    }

    #[test]
    fn no_memory_and_no_page_size_are_no_panic(limit in limit(), total_pages in any::<u64>(), page_bytes in any::<u64>()) {
        for page_bytes in [0, 1, page_bytes] {
            let _ = limit.kernel_bytes(Memory { total_pages, page_bytes });
        }
    }

    #[test]
    #[allow(clippy::float_arithmetic, clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn a_fraction_is_systemds_double(whole in 0..8_u64, digits in "[0-9]{1,19}", unit in 0..7_usize) {
        let mut fraction = digits.parse::<u64>().unwrap() as f64;
        for _ in 0..digits.len() {
            fraction /= 10.0;
        }
        let shift = [0, 10, 20, 30, 40, 50, 60][unit];
        let suffix = ["B", "K", "M", "G", "T", "P", "E"][unit];
        let bytes = (whole << shift) + (fraction * (1_u64 << shift) as f64) as u64;
        prop_assert_eq!(Limit::parse(&format!("{whole}.{digits}{suffix}")), Ok(Limit::Bytes(bytes)));
    }

    #[test]
    fn terms_add_up(terms in proptest::collection::vec(proptest::option::of(0..1000_u64), 7)) {
        let mut text = String::new();
        let mut bytes = 0_u128;
        for ((term, suffix), shift) in terms.iter().zip(["E", "P", "T", "G", "M", "K", "B"]).zip((0..7).rev()) {
            if let Some(term) = term {
                text += &format!(" {term} {suffix}");
                bytes += u128::from(*term) << (10 * shift);
            }
        }
        if !text.is_empty() {
            let expected = u64::try_from(bytes).ok().filter(|bytes| *bytes != u64::MAX);
            prop_assert_eq!(Limit::parse(&text).ok(), expected.map(Limit::Bytes));
        }
    }
}
