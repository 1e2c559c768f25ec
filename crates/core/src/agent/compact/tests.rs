use proptest::prelude::*;

use super::*;

macro_rules! recorded {
    ($name:literal) => {
        (
            include_bytes!(concat!("../../../../../tests/recorded/buddyinfo-", $name)).as_slice(),
            include_bytes!(concat!("../../../../../tests/recorded/pagetypeinfo-", $name))
                .as_slice(),
        )
    };
}

fn both((buddyinfo, pagetypeinfo): (&[u8], &[u8])) -> (Blocks, Option<Blocks>) {
    let Ok(all) = all_types(buddyinfo);
    let Ok(movable) = movable(pagetypeinfo, &all);
    (all, movable)
}

/// Pages in blocks below the order: of all types, and movable ones.
fn below(recorded: (&[u8], &[u8]), order: u64) -> (u64, Option<u64>) {
    let (all, movable) = both(recorded);
    (all.pages_below(order), movable.map(|movable| movable.pages_below(order)))
}

/// The sums were made by hand.
#[test]
fn the_kernels_texts() {
    let x86_64 = recorded!("x86_64-6.1.txt");
    assert_eq!(below(x86_64, 0), (0, Some(0)));
    assert_eq!(below(x86_64, 1), (2, Some(1)));
    assert_eq!(below(x86_64, 9), (192 + 2 + 2 + 4 + 48 + 64 + 128 + 256 + 256, Some(1 + 16 + 64)));
    // CMA's blocks are none of type Movable.
    let aarch64 = recorded!("aarch64-6.12.txt");
    assert_eq!(below(aarch64, 8), (1 + 6 + 16 + 32 + 64 + 192 + 384, Some(2 + 8 + 16 + 32 + 128)));
    assert_eq!(below(aarch64, 11).1, Some(2 + 8 + 16 + 32 + 128 + 1024 + (466 << 10)));
    assert_eq!(below(aarch64, u64::MAX), below(aarch64, 11));
}

#[test]
fn a_capped_cell_counts_what_buddyinfo_knows() {
    let bookworm = recorded!("x86_64-6.1-fragmented.txt");
    assert_eq!(below(bookworm, 1), (149_091, Some(149_090)));
    assert_eq!(below(bookworm, 9).1, Some(149_090 + 6 + 16 + 32 + 128));
    let sid = recorded!("x86_64-7.2-fragmented.txt");
    assert_eq!(below(sid, 1), (126_460, Some(126_460)));
    // Where buddyinfo knows less, the cap stands.
    assert_eq!(below((b"", bookworm.1), 1), (0, Some(100_000)));
}

#[test]
fn numbers_of_orders_that_kernels_have() {
    let line = |orders: u64| {
        let ones = " 1".repeat(usize::try_from(orders).unwrap());
        let all = format!("Node 0, zone Normal{ones}\n");
        let types = format!("Node 0, zone Normal, type Movable{ones}\n");
        below((all.as_bytes(), types.as_bytes()), 20)
    };
    assert_eq!(line(0), (0, Some(0)));
    assert_eq!(line(7), (127, Some(127)));
    assert_eq!(line(14), (16_383, Some(16_383)));
    assert_eq!(line(40), (65_535, Some(65_535)));
}

#[test]
fn what_is_no_list_of_free_blocks_counts_nothing() {
    let (_, text) = recorded!("x86_64-6.1.txt");
    let text = core::str::from_utf8(text).unwrap();
    let (lists, blocks) = text.split_once("Number of blocks").unwrap();
    assert_eq!(below((b"", blocks.as_bytes()), 9), (0, None));
    // A zone called Movable is not the type.
    let types = b"Node 0, zone  Movable, type    Unmovable 7\nNode 0, zone  Movable 5\n";
    assert_eq!(below((b"Node 0, zone  Movable 5\n", types), 9), (5, None));
    // The text ends within a number: that line is not believed.
    let at = lists.find("479").unwrap();
    let cut = &lists.as_bytes()[..=at];
    assert_eq!(below((b"", cut), 11).1, Some((1 << 9) + (3 << 10)));
    let all = b"Node 0, zone DMA32 3 x 1 18446744073709551616 -1 >2 18446744073709551615\n";
    assert_eq!(below((all, b""), 6), (3 + 4 + (2 << 5), None));
    assert_eq!(below((all, b""), 7), (u64::MAX, None));
}

const CONDITIONS: Conditions = Conditions { order: 9, threshold_pages: 1024, force_times: NEVER };

fn look(free_pages: u64, small_pages: u64, movable: impl Into<Option<u64>>) -> Look {
    Look { free_pages, order: 9, small_pages, small_movable_pages: movable.into() }
}

fn after(last: Look) -> History {
    let mut history = History::default();
    history.compacted(last);
    history
}

#[test]
fn the_first_period_compares_with_nothing() {
    let first = History::default();
    assert!(!first.needs_types(&CONDITIONS, &look(100_000, 1024, None)));
    assert!(first.needs_types(&CONDITIONS, &look(100_000, 1025, None)));
    assert_eq!(first.decide(&CONDITIONS, &look(100_000, 9000, 1024)), None);
    assert_eq!(first.decide(&CONDITIONS, &look(100_000, 9000, 1025)), Some(Why::SmallGrew));
    // No pagetypeinfo: buddyinfo stands in.
    assert_eq!(first.decide(&CONDITIONS, &look(100_000, 1024, None)), None);
    assert_eq!(first.decide(&CONDITIONS, &look(100_000, 1025, None)), Some(Why::SmallGrew));
}

#[test]
fn small_movable_pages_grew_by_more_than_the_threshold() {
    let history = after(look(50_000, 5000, 3000));
    assert!(!history.needs_types(&CONDITIONS, &look(50_000, 4024, None)));
    assert!(history.needs_types(&CONDITIONS, &look(50_000, 4025, None)));
    assert_eq!(history.decide(&CONDITIONS, &look(50_000, 4024, None)), None);
    assert_eq!(history.decide(&CONDITIONS, &look(50_000, 9000, 4024)), None);
    assert_eq!(history.decide(&CONDITIONS, &look(50_000, 9000, 4025)), Some(Why::SmallGrew));
    // All are compared with all where either has no types.
    assert_eq!(history.decide(&CONDITIONS, &look(50_000, 6024, None)), None);
    assert_eq!(history.decide(&CONDITIONS, &look(50_000, 6025, None)), Some(Why::SmallGrew));
    let untyped = after(look(50_000, 5000, None));
    assert!(!untyped.needs_types(&CONDITIONS, &look(50_000, 9000, None)));
    assert_eq!(untyped.decide(&CONDITIONS, &look(50_000, 6024, 6024)), None);
    assert_eq!(untyped.decide(&CONDITIONS, &look(50_000, 6025, 0)), Some(Why::SmallGrew));
}

#[test]
fn what_was_freed_while_it_ran_is_compacted_next_time() {
    let before = look(50_000, 5000, 3000);
    let found = look(90_000, 40_000, 30_000);
    let history = after(found.after(&before));
    assert_eq!(history.decide(&CONDITIONS, &found), Some(Why::SmallGrew));
    // What it could not put together is not tried again.
    let history = after(before.after(&found));
    assert_eq!(history.decide(&CONDITIONS, &before), None);
    assert_eq!(look(1, 2, None).after(&before), look(1, 2, None));
}

#[test]
fn free_pages_fell_by_more_than_the_threshold() {
    let history = after(look(50_000, 5000, 3000));
    assert_eq!(history.decide(&CONDITIONS, &look(48_976, 0, 0)), None);
    assert_eq!(history.decide(&CONDITIONS, &look(48_975, 0, 0)), Some(Why::FreeFell));
    assert!(!history.needs_types(&CONDITIONS, &look(48_975, 9000, None)));
    assert_eq!(history.decide(&CONDITIONS, &look(90_000, 0, 0)), None);
    // The threshold is in force at once.
    let greater = Conditions { threshold_pages: 1025, ..CONDITIONS };
    assert_eq!(history.decide(&greater, &look(48_975, 0, 0)), None);
    let least = Conditions { threshold_pages: 0, ..CONDITIONS };
    assert_eq!(history.decide(&least, &look(50_000, 3000, 3000)), None);
    assert_eq!(history.decide(&least, &look(49_999, 3000, 3000)), Some(Why::FreeFell));
}

#[test]
fn forced_after_so_many_periods_without() {
    let calm = look(50_000, 5000, 3000);
    let mut history = after(calm);
    for (force_times, periods) in [(0, 0), (1, 1), (3, 2)] {
        let conditions = Conditions { force_times, ..CONDITIONS };
        for _ in 0..periods {
            assert_eq!(history.decide(&conditions, &calm), None);
            history.passed_without();
        }
        assert_eq!(history.decide(&conditions, &calm), (force_times < 3).then_some(Why::Forced));
        history.compacted(calm);
    }
    let conditions = Conditions { force_times: 0, ..CONDITIONS };
    assert_eq!(History::default().decide(&conditions, &look(0, 0, 0)), Some(Why::Forced));
    assert!(!History::default().needs_types(&conditions, &look(0, 9000, None)));
    history.periods_without = u64::MAX - 1;
    history.passed_without();
    history.passed_without();
    assert_eq!(history.decide(&CONDITIONS, &calm), None);
    let conditions = Conditions { force_times: NEVER - 1, ..CONDITIONS };
    assert_eq!(history.decide(&conditions, &calm), Some(Why::Forced));
}

#[test]
fn another_order_begins_anew() {
    let history = after(look(50_000, 5000, 3000));
    let other = |small_pages| Look { order: 10, ..look(50_000, 9000, small_pages) };
    assert_eq!(history.decide(&CONDITIONS, &other(1024)), None);
    assert_eq!(history.decide(&CONDITIONS, &other(1025)), Some(Why::SmallGrew));
    let scarce = Look { order: 10, ..look(48_975, 0, 0) };
    assert_eq!(history.decide(&CONDITIONS, &scarce), Some(Why::FreeFell));
}

#[test]
fn a_fragmented_guest_is_compacted() {
    let (all, movable) = both(recorded!("x86_64-6.1-fragmented.txt"));
    let history = History::default();
    let cheap = Look::cheap(334_000, CONDITIONS.order, &all);
    assert!(history.needs_types(&CONDITIONS, &cheap));
    let closer = cheap.closer(&movable.unwrap());
    assert_eq!(history.decide(&CONDITIONS, &closer), Some(Why::SmallGrew));
    // Where less was free when buddyinfo was read, that counts.
    let less = Look { small_pages: 7, ..cheap };
    assert_eq!(less.closer(&movable.unwrap()).small_movable_pages, Some(7));
    // A fresh one is not.
    let (all, _) = both(recorded!("x86_64-6.1.txt"));
    let cheap = Look::cheap(490_000, CONDITIONS.order, &all);
    assert!(!history.needs_types(&CONDITIONS, &cheap));
    assert_eq!(history.decide(&CONDITIONS, &cheap), None);
}

#[test]
fn defaults_are_katas() {
    assert_eq!(Conditions::of(&Settings::default()), CONDITIONS);
}

/// Free blocks as a kernel has them: of each zone, type and order.
fn zones() -> impl Strategy<Value = Vec<[[u64; 11]; 3]>> {
    // The other types stay below the cap: past it nobody knows.
    let count = |most: u64| prop_oneof![Just(0), 0..most, (most - 2)..most];
    let cells = move |most: u64| proptest::array::uniform11(count(most));
    let zone = (cells(99_999), cells(300_000), cells(99_999));
    proptest::collection::vec(zone.prop_map(|(a, b, c)| [a, b, c]), 1..5)
}

/// Their texts, printed as the kernel does (mm/vmstat.c).
fn print(zones: &[[[u64; 11]; 3]]) -> (String, String) {
    let (mut all, mut types) = (String::new(), String::new());
    for (zone, counts) in zones.iter().enumerate() {
        all += &format!("Node {zone}, zone {:>8} ", "Normal");
        for order in 0..11 {
            all += &format!("{:6} ", counts.iter().map(|of| of[order]).sum::<u64>());
        }
        all.push('\n');
        for (of, counts) in ["Unmovable", "Movable", "Reclaimable"].iter().zip(counts) {
            types += &format!("Node {zone:4}, zone {:>8}, type {of:>12} ", "Normal");
            for count in counts {
                let cap = if *count >= 100_000 { ">" } else { "" };
                types += &format!("{cap}{:6} ", count.min(&100_000));
            }
            types.push('\n');
        }
    }
    (all, types)
}

fn any_look() -> impl Strategy<Value = Look> {
    (0_u64..5000, 8_u64..10, 0_u64..5000, proptest::option::of(0_u64..5000)).prop_map(
        |(free_pages, order, small_pages, movable)| {
            let small_movable_pages = movable.map(|pages| pages.min(small_pages));
            Look { free_pages, order, small_pages, small_movable_pages }
        },
    )
}

proptest! {
    #[test]
    fn movable_blocks_are_found_past_the_cap(zones in zones(), order in 0_u64..12) {
        let (all, types) = print(&zones);
        let pages = zones.iter().map(|zone| {
            zone[1].iter().zip(0..order).map(|(count, order)| count << order).sum::<u64>()
        });
        prop_assert_eq!(below((all.as_bytes(), types.as_bytes()), order).1, Some(pages.sum()));
    }

    #[test]
    fn any_bytes_are_read(
        all in proptest::collection::vec(any::<u8>(), 0..300),
        types in "(Node|[ ,0-9>\n]|zone|type|Movable|Unmovable){0,60}",
        order in any::<u64>(),
    ) {
        let (small, movable) = below((&all, types.as_bytes()), order);
        let (every, every_movable) = below((&all, types.as_bytes()), u64::MAX);
        prop_assert!(small <= every && movable <= every_movable);
        let _ = below((types.as_bytes(), &all), order);
    }

    /// Where the cheap look was enough, the closer one says the same.
    #[test]
    fn types_are_read_where_they_matter(
        last in proptest::option::of(any_look()),
        periods in 0_u64..4,
        cheap in any_look(),
        movable in 0_u64..5000,
        threshold_pages in 0_u64..2000,
        force_times in prop_oneof![0_u64..4, Just(NEVER)],
    ) {
        let mut history = last.map_or_else(History::default, after);
        (0..periods).for_each(|_| history.passed_without());
        let conditions = Conditions { order: cheap.order, threshold_pages, force_times };
        let cheap = Look { small_movable_pages: None, ..cheap };
        let movable = movable.min(cheap.small_pages);
        let closer = Look { small_movable_pages: Some(movable), ..cheap };
        if !history.needs_types(&conditions, &cheap) {
            prop_assert_eq!(history.decide(&conditions, &cheap), history.decide(&conditions, &closer));
        }
    }
}
