//! Dumps of real kernels, broken ones, and generated ones.

use std::fmt::Write as _;

use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

use super::super::lines::tests::{Pieces, sizes};
use super::{CGROUP_PATH_MAX, Dump, Generation, Lruvec};

/// id, path, node, generations.
type Owned = (u64, String, u32, Vec<Generation>);

fn read(bytes: &[u8], sizes: &[usize]) -> (Vec<Owned>, u32) {
    let mut dump = Dump::new(Pieces::new(bytes, sizes));
    let mut all = Vec::new();
    while let Some(Lruvec { id, path, node, generations }) = dump.next().unwrap() {
        assert!(path.starts_with('/') && !generations.is_empty());
        assert!(generations.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
        all.push((id, path.into(), node, generations.to_vec()));
    }
    assert_eq!(dump.next(), Ok(None));
    (all, dump.malformed())
}

/// What a sound dump says, one line each: "ID PATH NODE: SEQ-SEQ OLDEST_AGE ANON FILE".
fn summary(text: &str) -> Vec<String> {
    let (lruvecs, malformed) = read(text.as_bytes(), &[4096]);
    assert_eq!(malformed, 0);
    let line = |(id, path, node, rows): &Owned| {
        let (oldest, youngest) = (rows[0], rows[rows.len() - 1]);
        let anon: u64 = rows.iter().map(|row| row.anon_pages).sum();
        let file: u64 = rows.iter().map(|row| row.file_pages).sum();
        let (seqs, age) = (format!("{}-{}", oldest.seq, youngest.seq), oldest.age_ms);
        format!("{id} {path} {node}: {seqs} {age} {anon} {file}")
    };
    lruvecs.iter().map(line).collect()
}

macro_rules! recorded {
    ($name:literal) => {
        include_str!(concat!("../../../../../tests/recorded/lru_gen-", $name, ".txt"))
    };
}

/// On these kernels a removed cgroup keeps its pages, and is listed with id 0.
#[test]
fn kernels_that_keep_removed_cgroups() {
    assert!(recorded!("x86_64-6.1").contains("memcg     0 /qm/gone\n"));
    assert_eq!(
        summary(recorded!("x86_64-6.1")),
        [
            "1 / 0: 0-3 3196 640 3",
            "2 /plimsoll 0: 0-3 1472 59 4",
            "4 /qm 0: 0-3 1468 16 0",
            "6 /qm/a b 0: 1-4 1216 512 770",
        ]
    );
    assert_eq!(
        summary(recorded!("x86_64-6.12")),
        [
            "1 / 0: 0-3 3428 565 0",
            "2 /plimsoll 0: 0-3 1460 58 4",
            "4 /qm 0: 0-3 1452 16 0",
            "6 /qm/a b 0: 1-4 1204 512 770",
        ]
    );
    assert_eq!(
        summary(recorded!("aarch64-6.1")),
        [
            "1 / 0: 0-3 2428 586 0",
            "2 /plimsoll 0: 0-3 1436 62 4",
            "4 /qm 0: 0-3 1428 17 0",
            "6 /qm/a b 0: 1-4 1148 512 770",
        ]
    );
}

/// Here its pages are its parent's, and ids are of 64 bits, without padding.
#[test]
fn a_kernel_that_hands_pages_to_the_parent() {
    assert_eq!(
        summary(recorded!("x86_64-7.2")),
        [
            "1 / 0: 0-3 3484 567 0",
            "28 /plimsoll 0: 0-3 1440 59 4",
            "130 /qm 0: 0-3 1432 1039 0",
            "239 /qm/a b 0: 1-4 1188 512 770",
        ]
    );
}

#[test]
fn two_memory_nodes() {
    assert_eq!(
        summary(recorded!("x86_64-6.1-two-nodes")),
        [
            "1 / 0: 0-3 3236 638 0",
            "1 / 1: 0-3 3236 0 0",
            "4 /qm 0: 0-3 1464 15 0",
            "4 /qm 1: 0-3 1464 0 0",
            "6 /qm/a b 0: 1-4 1204 512 770",
            "6 /qm/a b 1: 0-3 1204 0 0",
        ]
    );
}

/// With cgroup_disable=memory the whole machine is one list.
#[test]
fn memory_controller_off() {
    assert_eq!(summary(recorded!("x86_64-6.1-no-controller")), ["0 / 0: 1-4 3276 2261 774"]);
}

/// A sound cgroup, whose text each case damages or stands beside.
const SOUND: &str = "memcg 7 /a\n node 0\n 3 20 1 2 \n 4 10 3 4 \n";

#[test]
fn only_what_is_malformed_is_skipped() {
    let long = format!("memcg 8 /{}\n node 0\n 1 1 1 1\n", "x".repeat(CGROUP_PATH_MAX));
    let longest = format!("memcg 8 /{}\n node 0\n 1 1 1 1\n", "x".repeat(CGROUP_PATH_MAX - 1));
    let cut = format!("memcg 8 /{}\n node 0\n 1 1 1 1\n", "x".repeat(5000));
    // What stands between two sound cgroups, how much of it counts, how much is
    // malformed.
    let cases: &[(&str, usize, u32)] = &[
        ("", 0, 0),
        ("memcg 8 /b\n", 0, 0),
        ("memcg 8 /b\n node 0\n", 0, 0),
        ("memcg 0 /b\n node 0\n 1 1 1 1\n node 1\n 1 1\n", 0, 0),
        ("memcg 18446744073709551615 /b c \n node 4294967295\n 18446744073709551615 0 0 0\n", 1, 0),
        (&longest, 1, 0),
        ("memcg 8 \n node 0\n 1 1 1 1\n", 1, 0),
        ("memcg 8\n node 0\n 1 1 1 1\n", 0, 1),
        ("memcg x /b\n node 0\n 1 1 1 1\n node 1\n 1 1\n", 0, 1),
        ("memcg 18446744073709551616 /b\n node 0\n 1 1 1 1\n", 0, 1),
        ("memcg 8 b\n node 0\n 1 1 1 1\n", 0, 1),
        (&long, 0, 1),
        (&cut, 0, 1),
        ("memcg 8 /b\n 1 1 1 1\n 2 1 1 1\n", 0, 1),
        ("memcg 8 /b\n node x\n 1 1 1 1\n node 1\n 1 1 1 1\n", 1, 1),
        ("memcg 8 /b\n node 4294967296\n 1 1 1 1\n", 0, 1),
        ("memcg 8 /b\n node 0\n 1 1 1 1\n\n", 0, 1),
        ("memcg 8 /b\n node 0\n 1 1 1\n 2 1 1 1\n 5 5 5\n", 0, 1),
        ("memcg 8 /b\n node 0\n 1 1 1 1 1\n", 0, 1),
        ("memcg 8 /b\n node 0\n 1 1 -1 1\n", 0, 1),
        ("memcg 8 /b\n node 0\n 1 1 1 1\n 3 1 1 1\n", 0, 1),
        ("memcg 8 /b\n node 0\n 1 1 1 1\n 1 1 1 1\n", 0, 1),
        ("memcg 8 /b\n node 0\n 18446744073709551615 1 1 1\n 0 1 1 1\n", 0, 1),
        ("memcg 8 /b\n node 0\n 1 1 1 1\n 2 1 1 1\n 3 1 1 1\n 4 1 1 1\n 5 1 1 1\n", 0, 1),
        ("memcg 8 /b\n node 0\n 1 1 1\n node 1\n 1 1 1 1\n node 2\n 1 1 1\n", 1, 2),
    ];
    for (text, counts, malformed) in cases {
        let (lruvecs, found) = read([SOUND, text, SOUND].concat().as_bytes(), &[4096]);
        assert_eq!((lruvecs.len(), found), (counts + 2, *malformed), "{text}");
        assert_eq!(lruvecs.first(), lruvecs.last(), "{text}");
    }
}

#[test]
fn what_is_no_text_is_malformed() {
    let path = b"memcg 8 /\xff\n node 0\n 1 1 1 1\n";
    assert_eq!(read(path, &[4096]), (vec![], 1));
    let row = [SOUND.as_bytes(), b" 5 5 5 \xff\n"].concat();
    assert_eq!(read(&row, &[4096]), (vec![], 1));
}

#[test]
fn before_the_first_header() {
    assert_eq!(read(b" 1 1 1 1\n 2 1 1 1\n", &[4096]), (vec![], 1));
    assert_eq!(read(b" node 0\n 1 1 1 1\n", &[4096]), (vec![], 1));
    assert_eq!(read(b"", &[4096]), (vec![], 0));
}

#[test]
fn no_truncated_end_counts() {
    for end in 0..SOUND.len() {
        let (lruvecs, malformed) = read(&SOUND.as_bytes()[..end], &[4096]);
        // A whole row may be the last one: the kernel ends there, too.
        let row_end = SOUND.find(" 4 10").unwrap();
        assert_eq!(lruvecs.len(), usize::from(end == row_end), "{end}");
        let line_end = end == 0 || SOUND[..end].ends_with('\n');
        assert_eq!(malformed, u32::from(!line_end), "{end}");
    }
}

#[test]
fn memory_is_bounded() {
    assert!(size_of::<Dump<&[u8]>>() < 5 * 1024 + 512);
}

/// Pieces of a dump, and random bytes.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces =
        [SOUND, "memcg ", " node ", "0", "8", " ", "/", "\n", " 5 5 5 5\n", "memcg 0 /x\n"];
    let pieces =
        proptest::sample::select(pieces.to_vec()).prop_map(|text| text.as_bytes().to_vec());
    proptest::prop_oneof![8 => pieces, 1 => proptest::collection::vec(any::<u8>(), 0..20)]
}

/// What a sound dump says: cgroups, each with one or two nodes.
fn dump() -> impl Strategy<Value = Vec<Owned>> {
    let rows = (0..u64::MAX - 4, proptest::collection::vec(any::<(u32, u64, u64)>(), 1..=4));
    let rows =
        rows.prop_map(|(seq, rows)| {
            let row = |(seq, (age_ms, anon_pages, file_pages)): (u64, (u32, u64, u64))| {
                Generation { seq, age_ms: age_ms.into(), anon_pages, file_pages }
            };
            (seq..).zip(rows).map(row).collect::<Vec<_>>()
        });
    let nodes = proptest::collection::vec((any::<u32>(), rows), 1..=2);
    let cgroups = (1..u64::MAX - 100, proptest::collection::vec(("/[^\n]{0,200}", nodes), 0..20));
    cgroups.prop_map(|(id, cgroups)| {
        let of = |(id, (path, nodes)): (u64, (String, Vec<_>))| {
            nodes.into_iter().map(move |(node, rows)| (id, path.clone(), node, rows))
        };
        (id..).zip(cgroups).flat_map(of).collect()
    })
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces(
        bytes in proptest::collection::vec(piece(), 0..40).prop_map(|pieces| pieces.concat()),
        sizes in sizes(),
    ) {
        prop_assert_eq!(read(&bytes, &sizes), read(&bytes, &[usize::MAX]));
    }

    #[test]
    fn what_is_written_is_read(dump in dump(), padded in any::<bool>(), sizes in sizes()) {
        let mut text = String::new();
        let mut last = None;
        for (id, path, node, generations) in &dump {
            if last != Some(id) {
                let written = if padded { format!("{id:5}") } else { id.to_string() };
                writeln!(text, "memcg {written} {path}").unwrap();
            }
            last = Some(id);
            writeln!(text, " node {node:5}").unwrap();
            for Generation { seq, age_ms, anon_pages, file_pages } in generations {
                writeln!(text, " {seq:10} {age_ms:10} {anon_pages:10} {file_pages:10} ").unwrap();
            }
        }
        prop_assert!(read(text.as_bytes(), &sizes) == (dump, 0));
    }
}
