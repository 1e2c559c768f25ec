# An index of the commands. Nothing needs just: each line runs on its own.

# boot a board and report what its kernel shows
boot *args:
    cargo xtask boot {{args}}

# run a command in a booted board
guest *args:
    cargo xtask guest {{args}}

# all tests, on the host and in booted guests
test:
    cargo xtask test

# the host's tests alone
quick:
    cargo xtask test --quick

# build plimsoll for both architectures
build *args:
    cargo xtask build {{args}}

# write a board's kernel, image and disk to a directory
image *args:
    cargo xtask image {{args}}

# check a board file
check file:
    cargo xtask check {{file}}

# make a board file of an automotive-image-builder manifest
import *args:
    cargo xtask import {{args}}

# make of a board file what automotive-image-builder takes or writes
export *args:
    cargo xtask export {{args}}

# measure what plimsoll costs a boot with systemd
boot-time *args:
    cargo xtask boot-time {{args}}

# measure how late a host's process wakes up beside QM, with systemd
latency *args:
    cargo xtask latency {{args}}

# have a host take memory back, with virtio-mem's driver alone and with plimsoll
shrink *args:
    cargo xtask shrink {{args}}

# measure the budgets
size *args:
    cargo xtask size {{args}}

# check licences, and what may never reach the target
deny:
    cargo xtask deny

# install what is missing on this machine
install:
    cargo xtask install
