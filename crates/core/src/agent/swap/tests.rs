use std::process::Command;

use super::*;

const GIB: u64 = 1 << 30;
const SEC: u64 = 1_000_000;

fn present(bytes: u64, areas: usize) -> Present {
    Present { bytes, areas }
}

#[test]
fn wanted() {
    assert_eq!(wanted_bytes(2 * GIB, 50), 2 * GIB / 100 * 50);
    assert_eq!(wanted_bytes(2 * GIB, 0), 0);
    assert_eq!(wanted_bytes(u64::MAX, 400), u64::MAX);
}

#[test]
fn missing() {
    let none = Present::default();
    assert_eq!(missing_bytes(GIB, none), GIB);
    assert_eq!(missing_bytes(AREA_BYTES_MIN, none), AREA_BYTES_MIN);
    assert_eq!(missing_bytes(AREA_BYTES_MIN - 1, none), 0);
    // A sixteenth more, or it isn't worth an area; and never less.
    assert_eq!(missing_bytes(GIB + GIB / 16, present(GIB, 1)), GIB / 16);
    assert_eq!(missing_bytes(GIB + GIB / 16 - 1, present(GIB, 1)), 0);
    assert_eq!(missing_bytes(GIB, present(2 * GIB, 1)), 0);
    assert_eq!(missing_bytes(GIB, present(4096, AREAS_MAX - 1)), GIB - 4096);
    assert_eq!(missing_bytes(GIB, present(4096, AREAS_MAX)), 0);
}

#[test]
fn limit_of_qm() {
    assert_eq!(qm_swap_max(None, present(GIB, 1)), Limit::Bytes(GIB));
    assert_eq!(qm_swap_max(None, Present::default()), Limit::Bytes(0));
    assert_eq!(qm_swap_max(Some(Limit::Bytes(5)), present(GIB, 1)), Limit::Bytes(5));
}

/// The first page as it is on the disk.
fn first_page(page: usize, pages: u64, uuid: Uuid) -> Vec<u8> {
    let mut first = vec![0; page];
    let fields = header(pages, uuid);
    first[1024..1024 + fields.len()].copy_from_slice(&fields);
    first[page - MAGIC.len()..].copy_from_slice(MAGIC);
    first
}

#[test]
fn header_layout() {
    let first = first_page(4096, 0x0102_0304, random_uuid([0xff; 16]));
    assert_eq!(first[..1024], [0; 1024]);
    assert_eq!(first[1024..1036], [1, 0, 0, 0, 3, 3, 2, 1, 0, 0, 0, 0]);
    assert_eq!(random_uuid([0xff; 16]).to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    let label_at = usize::try_from(LABEL_AT).unwrap();
    assert_eq!(&first[label_at..label_at + 16], LABEL);
    assert_eq!(first[1068..4086], [0; 4086 - 1068]);
    assert_eq!(&first[4086..], b"SWAPSPACE2");
    // The kernel's number of pages has 32 bits.
    assert_eq!(header(1 << 40, Uuid::NIL)[4..8], [0xff; 4]);
}

#[test]
fn header_is_that_of_mkswap() {
    let path = std::env::temp_dir().join(format!("plimsoll-mkswap-{}", std::process::id()));
    let uuid = random_uuid(*b"0123456789abcdef");
    for page in [4096_usize, 16_384, 65_536] {
        std::fs::write(&path, vec![0; page * 20]).unwrap();
        let mut mkswap = Command::new("mkswap");
        mkswap.args(["-L", "plimsoll", "-U", &uuid.to_string(), "-p", &page.to_string()]);
        let Ok(made) = mkswap.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").arg(&path).output()
        else {
            // Not on this machine; `header_layout` holds all the same.
            break;
        };
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        assert!(std::fs::read(&path).unwrap()[..page] == first_page(page, 20, uuid), "{page}");
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn lines_of_proc_swaps() {
    let file = |kib: u64| Some(Area { zram: None, bytes: kib * 1024 });
    for (line, expected) in [
        ("/var/qm/swap/plimsoll.swap0             file\t\t20476\t\t0\t\t-2", file(20_476)),
        ("/with\\040blank/plimsoll.swap15 file\t\t1020\t\t8\t\t-3", file(1020)),
        (
            "/dev/zram3                              partition\t102396\t\t0\t\t100",
            Some(Area { zram: Some("/dev/zram3"), bytes: 102_396 << 10 }),
        ),
        ("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority", None),
        ("/dev/vda2 partition\t102396\t\t0\t\t-2", None),
        ("/dev/mapper/zram1 partition\t102396\t\t0\t\t-2", None),
        ("/swapfile file\t\t102396\t\t0\t\t-2", None),
        ("/plimsoll.swap0/swap file\t\t102396\t\t0\t\t-2", None),
        ("/swap/plimsoll.swap1 file\t\t-1\t\t0\t\t-2", None),
        ("/swap/plimsoll.swap1 file", None),
        ("", None),
    ] {
        assert_eq!(area(line), expected, "{line:?}");
    }
    let mut sum = Present::default();
    sum.add(5);
    sum.add(u64::MAX);
    assert_eq!(sum, present(u64::MAX, 2));
}

/// Ticks exactly when asked to, from `now` on, until an area is wanted.
fn wait(swap: &mut Swap, now: &mut u64, memory: u64, present: Present) -> u64 {
    for _ in 0..1000 {
        if let Some(bytes) = swap.tick(*now, memory, Some(present), 50, 60) {
            return bytes;
        }
        assert!(swap.next_us() > *now, "a tick that asks for itself");
        *now = swap.next_us();
    }
    panic!("nothing was ever wanted");
}

#[test]
fn made_after_the_threshold_and_grown_with_the_memory() {
    let (mut swap, mut now) = (Swap::default(), 5 * SEC);
    assert_eq!(wait(&mut swap, &mut now, 2 * GIB, Present::default()), 2 * GIB / 100 * 50);
    assert_eq!(now, 65 * SEC);
    // Nothing while it is being made, however long that takes.
    for _ in 0..1000 {
        now += SEC;
        assert_eq!(swap.tick(now, 2 * GIB, Some(Present::default()), 50, 60), None);
    }
    swap.made(now, true);
    let there = present(2 * GIB / 100 * 50 - 4096, 1);
    assert_eq!(swap.tick(now, 2 * GIB, Some(there), 50, 60), None);
    assert_eq!(swap.next_us(), now + 10 * SEC);
    // Memory that comes bit by bit: the time counts from the last bit.
    for memory in [3, 4, 5] {
        now += 59 * SEC;
        assert_eq!(swap.tick(now, memory * GIB, Some(there), 50, 60), None);
    }
    let last = now;
    assert_eq!(wait(&mut swap, &mut now, 5 * GIB, there), 5 * GIB / 100 * 50 - there.bytes);
    assert_eq!(now, last + 60 * SEC);
    swap.made(now, true);
    // Memory that goes takes no swap along.
    let there = present(5 * GIB / 2, 2);
    for _ in 0..100 {
        now += 10 * SEC;
        assert_eq!(swap.tick(now, GIB, Some(there), 50, 60), None);
    }
}

#[test]
fn failures_are_tried_again_later_and_later() {
    let (mut swap, mut now) = (Swap::default(), 0);
    wait(&mut swap, &mut now, GIB, Present::default());
    for secs in [120, 240, 480, 960, 1920, 3600, 3600] {
        swap.made(now, false);
        let failed = now;
        wait(&mut swap, &mut now, GIB, Present::default());
        assert_eq!(now, failed + secs * SEC);
    }
    // Another path was set: at once, and patient anew.
    swap.made(now, false);
    swap.changed();
    assert_eq!(swap.next_us(), 0);
    assert!(swap.tick(now, GIB, Some(Present::default()), 50, 60).is_some());
    swap.made(now, false);
    let failed = now;
    wait(&mut swap, &mut now, GIB, Present::default());
    assert_eq!(now, failed + 120 * SEC);
    // And a success forgets the failures.
    swap.made(now, true);
    assert!(swap.tick(now, GIB, Some(Present::default()), 50, 60).is_some());
}

#[test]
fn what_cannot_be_read_wants_nothing() {
    let mut swap = Swap::default();
    assert_eq!(swap.tick(SEC, GIB, None, 100, 0), None);
    assert_eq!(swap.next_us(), 11 * SEC);
    assert_eq!(swap.tick(SEC, 0, Some(Present::default()), 100, 0), None);
    assert!(swap.tick(SEC, GIB, Some(Present::default()), 100, 0).is_some());
}
