use proptest::prelude::*;

use super::super::lines::tests::{Pieces, sizes};
use super::*;

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 128 * MIB;

fn record(text: &str) -> Option<(u64, Size)> {
    heard(text.as_bytes())
}

#[test]
fn the_driver_is_heard() {
    let end = "\n SUBSYSTEM=virtio\n DEVICE=+virtio:virtio3\n";
    for (text, size) in [
        ("plugged size: 0x60000000", Size::Plugged(1536 * MIB)),
        ("requested size: 0x0", Size::Requested(0)),
    ] {
        let text = format!("6,412,5140900,-;virtio_mem virtio3: {text}{end}");
        assert_eq!(record(&text), Some((3, size)), "{text}");
    }
}

#[test]
fn others_are_not() {
    for text in [
        "",
        ";",
        "6,1,1,-;virtio_mem virtio3: region size: 0x60000000",
        "6,1,1,-;virtio_mem virtio3: requested size: 60000000",
        "6,1,1,-;virtio_mem virtio3: requested size: 0x",
        "6,1,1,-;virtio_mem virtio3: requested size: 0x10000000000000000",
        "6,1,1,-;virtio_mem virtio: requested size: 0x0",
        "6,1,1,-;x virtio_mem virtio3: requested size: 0x0",
        // Written to /dev/kmsg: the facility tells.
        "14,1,1,-;virtio_mem virtio3: requested size: 0x0",
        "x,1,1,-;virtio_mem virtio3: requested size: 0x0",
    ] {
        assert_eq!(record(text), None, "{text}");
    }
}

const IOMEM: &str = "\
00000000-00000fff : Reserved
100000000-13fffffff : System RAM
140000000-1bfffffff : virtio3
  140000000-15fffffff : System RAM (virtio_mem)
  168000000-16fffffff : System RAM (virtio_mem)
1c0000000-1ffffffff : virtio4
  1c0000000-1ffffffff : System RAM (virtio_mem)
";

fn highest(device: u64, below: u64, offline: &[u64]) -> Option<u64> {
    let iomem = Pieces::new(IOMEM.as_bytes(), &[7]);
    highest_block(iomem, device, BLOCK, below, |block| !offline.contains(&block)).unwrap()
}

#[test]
fn the_highest_block_goes_first() {
    // Blocks 40 to 43 and 45 are virtio3's, 56 to 63 are virtio4's.
    assert_eq!(highest(3, u64::MAX, &[]), Some(45));
    assert_eq!(highest(3, 45, &[]), Some(43));
    assert_eq!(highest(3, u64::MAX, &[45, 43]), Some(42));
    assert_eq!(highest(3, 41, &[]), Some(40));
    assert_eq!(highest(3, 40, &[]), None);
    assert_eq!(highest(4, u64::MAX, &[63]), Some(62));
    assert_eq!(highest(5, u64::MAX, &[]), None);
}

fn memory(total: u64, free: u64, available: u64) -> Meminfo {
    Meminfo { total: total * MIB, free: free * MIB, available: available * MIB }
}

fn asked(from: u64, to: u64) -> Shrink {
    let mut shrink = Shrink::new(Limit::Bytes(100 * MIB));
    shrink.block_bytes = BLOCK;
    assert!(shrink.hear(3, Size::Plugged(from * MIB)));
    assert!(shrink.hear(3, Size::Requested(to * MIB)));
    shrink
}

fn offline(below: u64) -> Step {
    Step::Offline(Target { device: 3, below, block_bytes: BLOCK })
}

const TARGET: Target = Target { device: 3, below: u64::MAX, block_bytes: BLOCK };

#[test]
fn growth_is_left_to_the_kernel() {
    let mut shrink = asked(0, 1024);
    assert_eq!(shrink.state(), State::Idle);
    assert_eq!(shrink.next(memory(2048, 2000, 2000), 4096, 5), Step::Wait);
    assert_eq!(shrink.deadline_us(), u64::MAX);
}

#[test]
fn blocks_go_until_all_is_given_back() {
    let mut shrink = asked(256, 0);
    let idle = memory(2048, 1900, 1900);
    assert_eq!(shrink.next(idle, 4096, 5), offline(u64::MAX));
    shrink.took(500_000);
    shrink.tried(TARGET, Some(45), Some(BLOCK), 6);
    assert_eq!((shrink.left(), shrink.rate(), shrink.left_secs()), (BLOCK, 2 * BLOCK, 0));
    assert_eq!(shrink.next(idle, 4096, 7), offline(45));
    // One that is refused is passed over.
    shrink.tried(TARGET, Some(44), None, 8);
    assert_eq!(shrink.next(idle, 4096, 9), offline(44));
    shrink.tried(TARGET, Some(43), Some(BLOCK), 10);
    assert_eq!((shrink.state(), shrink.left()), (State::Idle, 0));
    assert_eq!(shrink.next(idle, 4096, 11), Step::Wait);
}

#[test]
fn what_is_needed_is_kept() {
    let mut shrink = asked(256, 0);
    // 228 MiB have to be there: QM is reclaimed first.
    let short = memory(2048, 28, 200);
    assert_eq!(shrink.next(short, 4096, 5), Step::Reclaim(200 * MIB));
    assert_eq!(shrink.next(short, 4096, 6), Step::Wait);
    assert_eq!(shrink.state(), State::Short(28 * MIB));
    assert_eq!(shrink.deadline_us(), 6 + LOOK_US);
    assert_eq!(shrink.next(memory(2048, 900, 900), 4096, 7), Step::Wait);
    // Available, though not free: the kernel fetches it.
    let enough = memory(2048, 28, 228);
    assert_eq!(shrink.next(enough, 4096, 6 + LOOK_US), offline(u64::MAX));
    assert_eq!(shrink.state(), State::Shrinking);
    // QM is reclaimed ever less often while no block goes.
    let mut now = 5 + 10_000_000;
    for secs in [20, 40, 80, 160, 300, 300] {
        assert_eq!(shrink.next(enough, 4096, now - 1), offline(u64::MAX), "{now}");
        assert_eq!(shrink.next(enough, 4096, now), Step::Reclaim(200 * MIB), "{now}");
        now += secs * 1_000_000;
    }
    shrink.reclaim_again();
    assert_eq!(shrink.next(enough, 4096, now - 1), Step::Reclaim(200 * MIB));
    now += 9_999_999;
    shrink.tried(TARGET, Some(45), Some(BLOCK), now);
    assert_eq!(shrink.next(enough, 4096, now), Step::Reclaim(200 * MIB));
    assert_eq!(shrink.next(enough, 4096, now + 10_000_000), Step::Reclaim(200 * MIB));
    // A part of what is free the kernel keeps: it is not available.
    now += 30_000_000;
    let kept = memory(2048, 228, 200);
    assert_eq!(shrink.next(kept, 4096, now), Step::Reclaim(28 * MIB));
    // Unreadable: nothing goes.
    now += 30_000_000;
    shrink.next(Meminfo::default(), 4096, now);
    assert_eq!(shrink.next(Meminfo::default(), 4096, now + 1), Step::Wait);
}

#[test]
fn what_came_of_another_request() {
    let idle = memory(2048, 1900, 1900);
    for (block, fell) in [(Some(45), Some(0)), (Some(45), None), (None, None)] {
        let mut shrink = asked(256, 0);
        assert_eq!(shrink.next(idle, 4096, 5), offline(u64::MAX));
        // Reversed, and again, while a block is on its way.
        for mib in [256, 128] {
            shrink.hear(3, Size::Plugged(256 * MIB));
            shrink.hear(3, Size::Requested(mib * MIB));
        }
        shrink.tried(TARGET, block, fell, 6);
        assert_eq!((shrink.state(), shrink.left()), (State::Shrinking, BLOCK));
        assert_eq!(shrink.next(idle, 4096, 7), offline(u64::MAX));
        shrink.tried(TARGET, Some(45), Some(BLOCK), 8);
        assert_eq!((shrink.state(), shrink.left()), (State::Idle, 0));
    }
}

#[test]
fn blocks_that_are_all_refused_are_tried_again_later() {
    let mut shrink = asked(256, 0);
    shrink.next(memory(2048, 1900, 1900), 4096, 7);
    shrink.tried(TARGET, Some(45), None, 8);
    let rest = Target { below: 45, ..TARGET };
    shrink.tried(rest, None, None, 9);
    assert_eq!((shrink.state(), shrink.deadline_us()), (State::Refused, 10_000_009));
    shrink.tried(rest, None, None, 10_000_010);
    assert_eq!(shrink.deadline_us(), 30_000_010);
    // Another request counts at once.
    shrink.hear(3, Size::Requested(0));
    assert_eq!(shrink.next(memory(2048, 1900, 1900), 4096, 11), offline(u64::MAX));
}

#[test]
fn a_request_that_is_met_already_ends() {
    let mut shrink = asked(256, 0);
    shrink.next(memory(2048, 1900, 1900), 4096, 7);
    shrink.tried(TARGET, Some(45), Some(0), 8);
    assert_eq!((shrink.state(), shrink.left()), (State::Idle, 0));
}

#[test]
fn what_is_not_online_is_the_drivers() {
    let mut shrink = asked(256, 0);
    shrink.not_begun(5);
    let idle = memory(2048, 1900, 1900);
    assert_eq!(shrink.next(idle, 4096, 6), Step::Wait);
    assert_eq!(shrink.next(idle, 4096, 5 + LOOK_US), offline(u64::MAX));
    shrink.tried(TARGET, None, None, 5 + LOOK_US);
    assert_eq!((shrink.state(), shrink.left()), (State::Idle, 0));
}

#[test]
fn more_devices_than_are_minded() {
    let mut shrink = asked(256, 0);
    for number in 10..20 {
        assert_eq!(shrink.hear(number, Size::Plugged(BLOCK)), number < 13);
        assert_eq!(shrink.hear(number, Size::Requested(0)), number < 13);
    }
    assert_eq!(shrink.left(), 256 * MIB + 3 * BLOCK);
}

#[test]
fn it_is_shown_as_json() {
    let mut shrink = asked(256, 0);
    let short = memory(2048, 1900, 128);
    assert_eq!(shrink.next(short, 4096, 7), Step::Reclaim(100 * MIB));
    assert_eq!(shrink.next(short, 4096, 8), Step::Wait);
    let json: serde_json::Value = serde_json::from_str(&Json(&shrink).to_string()).unwrap();
    assert_eq!(json["missing_bytes"], 100 * MIB);
    assert_eq!(json["left_bytes"], 256 * MIB);
}

proptest! {
    #[test]
    fn no_text_panics(bytes in any::<std::vec::Vec<u8>>(), sizes in sizes(), block in any::<u64>()) {
        let _ = heard(&bytes);
        let _ = heard(&[b"6,1,1,-;virtio_mem virtio", &*bytes].concat());
        let _ = highest_block(Pieces::new(&bytes, &sizes), 3, block, u64::MAX, |_| true);
        let _ = Meminfo::parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn nothing_goes_below_the_floor(
        total in any::<u64>(), free in any::<u64>(), available in any::<u64>(), now in any::<u64>(),
    ) {
        let mut shrink = asked(256, 0);
        if let Step::Offline(_) = shrink.next(Meminfo { total, free, available }, 4096, now) {
            prop_assert!(available - BLOCK >= 100 * MIB);
        }
    }
}
