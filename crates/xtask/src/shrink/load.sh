# For a guest with most of its memory in virtio-mem; its host hears "want MIB".
of() { awk "/^$1[: ]/ { print \$2 }" $2; }
total() { of MemTotal /proc/meminfo; }
ms() { awk '{ printf "%d\n", $1 * 1000 }' /proc/uptime; }
alive() { n=0; for pid in $pids; do [ -d /proc/$pid ] && n=$((n + 1)); done; echo "$1_alive $n"; }
# Until MemTotal is above or below a number of KiB; for at most 100 s.
until_total() { for i in $(seq 1000); do [ $(total) $1 $2 ] && return; sleep 0.1; done; echo "late $*" >&2; }
grow() { begin=$(ms); echo "want 1536"; until_total -ge $((alone + 1536 * 1024 - 8)); echo "$1_ms $(($(ms) - begin))"; }
shrink_idle() { begin=$(ms); echo "want 0"; until_total -le $((alone + 8)); echo "shrink_ms $(($(ms) - begin))"; }
# What the OOM killer may end: with the score that a process has by default.
mortal="echo 0 >/proc/self/oom_score_adj; exec load"
# Ten processes that hold most of it, and something that takes 100 MiB for a
# second, again and again.
hold() {
    for i in $(seq 10); do sh -c "$mortal anon 140 0 3600" >/tmp/anon$i & pids="$pids $!"; done
    for i in $(seq 10); do until grep -qs resident /tmp/anon$i; do sleep 0.1; done; done
    while :; do sh -c "$mortal eat 100 1" >/dev/null; sleep 2; done & churn=$!
    sleep 2
}
alone=$(total); echo "alone $alone"
