# Milliseconds since the request, MemTotal, MemAvailable, and who was killed.
sample() {
    echo "at $(($(ms) - start)) $(awk '
        /^MemTotal:/ { total = $2 } /^MemAvailable:/ { available = $2 } /^oom_kill / { kills = $2 }
        END { print total, available, kills }' /proc/meminfo /proc/vmstat)"
}
for_secs() { end=$(($(ms) + $1 * 1000)); while [ $(ms) -lt $end ]; do sample; sleep 0.5; done; }
echo "kernel $(uname -r)"
grow grow; sleep 1; shrink_idle
grow again; hold
start=$(ms); echo "want 0"
for_secs $held; alive held
set -- $pids; kill $1 $2 $3 $4 $5 2>/dev/null
for_secs $left
kill $churn $6 $7 $8 $9 ${10} 2>/dev/null
end=$(($(ms) + late * 1000))
while sample; [ $(total) -gt $((alone + 8)) ] && [ $(ms) -lt $end ]; do sleep 0.5; done
