# shellcheck shell=bash
# Runs a command in a VM. Sourced by in-kernel.

# QEMU's plainest CPU: instructions that are fast in hardware (AVX, 5-level paging) are slow to emulate, and with `max`
# the C library and the kernel choose them; starting a process takes a fifth less time with this one. Without RDRAND
# the kernel has no random numbers to give for the first ten seconds. Without CMPXCHG16B the allocator takes another way: panics were
# seen in it.
vm_cpu=qemu64,+rdrand,-cx16

# The emulator keeps what it has translated by address: a program that is at another one each time is translated each time. Without
# `norandmaps` a process takes three times as long to start.
#
# The kernel's protections cost emulated instructions and protect nothing here. Expedited grace periods make removing a
# netns quick. The time stamp counter is steady under emulation, and reading any other clock leaves the translated code.
# One CPU at first: an emulated one can be just there where another rewrites code (static keys), and dies of it. vm-init starts the
# others when that is done.
vm_kernel_args=(
    maxcpus=1 norandmaps
    mitigations=off init_on_alloc=0 hardened_usercopy=off randomize_kstack_offset=off lsm= audit=0
    rcupdate.rcu_expedited=1 tsc=reliable nowatchdog
)

# `loose` keeps what was read: the host changes nothing that the guest has read while it runs. Without it a process
# takes two to four times as long to start.
vm_root_options=rw,trans=virtio,version=9p2000.L,access=any,msize=1048576,cache=loose

vm_env_names() {
    local name
    for name in $(compgen -e); do
        case $name in
            KST_IN_KERNEL | KST_VM_*) ;;
            PATH | HOME | USER | LOGNAME | SHELL | TERM | COLORTERM | LANG | LANGUAGE | LC_* | TZ | CI | TMPDIR | \
            LD_LIBRARY_PATH | NO_COLOR | FORCE_COLOR | CLICOLOR* | XDG_* | \
            RUST* | KST_* | CARGO* | NEXTEST* | LLVM_* | PROPTEST_* | INSTA_* | PYTHON* | BLESS | UPDATE_*)
                printf '%s\n' "$name" ;;
        esac
    done
    for name in ${KST_VM_ENV-}; do
        printf '%s\n' "$name"
    done
}

# Programs that tests start again and again.
vm_programs=(nft ip tc ping sysctl nstat modprobe bird birdc unshare sh)

# Names what vm-init keeps copies of: the files of these programs, and of their libraries.
vm_keep() {
    local run=$1 program files=()
    for program in "${vm_programs[@]}"; do
        # `command -v` would name a builtin.
        mapfile -t -O "${#files[@]}" files < <(type -P "$program")
    done
    printf '%s\n' "${files[@]}" >"$run/programs"
    # One that is linked statically has none, which ldd calls a failure.
    (ldd "${files[@]}" 2>/dev/null || true) | sed -nE 's/^[^/]*[[:space:]](\/[^ ]+) \(.*/\1/p' | sort -u >"$run/libraries"
}

# Prints the script that vm-init runs.
vm_command() {
    local name
    printf 'umask %s\n' "$(umask)"
    printf 'ulimit -n %s\n' "$(ulimit -n)"
    printf 'export TMPDIR=/run/tmp KST_INSIDE_VM=1\n'
    for name in $(vm_env_names); do
        [[ -z ${!name+set} ]] || printf 'export %s=%q\n' "$name" "${!name}"
    done
    # shellcheck disable=SC2016  # the guest expands it
    printf 'PATH=/run/in-kernel/bin:$PATH\n'
    printf 'cd -- %q || exit 126\n' "$PWD"
    printf 'exec --'
    printf ' %q' "$@"
    printf '\n'
}

# Sets vm_qemu. The descriptors 3 and 4 become the guest's two ports.
vm_qemu_command() {
    local image=$1 run=$2 more
    local kernel_args=(
        console=ttyS0 loglevel=4 panic=-1
        "kst.root=$vm_root_options" "kst.init=$lib/vm-init" "kst.run=$run" "kst.modules=$image/root/lib/modules"
        "${vm_kernel_args[@]}" "${KST_VM_KERNEL_ARGS-}"
    )
    # shellcheck disable=SC2054  # commas are QEMU's
    vm_qemu=(
        qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none -machine q35
        -smp "${KST_VM_CPUS:-2}" -m "${KST_VM_MEMORY:-4G}"
        -kernel "$image/vmlinuz" -initrd "$image/initrd" -append "${kernel_args[*]}"
        -fsdev local,id=root,path=/,security_model=none,multidevs=remap
        -device virtio-9p-pci,fsdev=root,mount_tag=root
        -serial "file:$run/console"
        # Duplicates of descriptors that are open already: QEMU would truncate a file that it opens itself.
        -add-fd fd=3,set=3 -chardev file,id=out,path=/dev/fdset/3,append=on
        -add-fd fd=4,set=4 -chardev file,id=err,path=/dev/fdset/4,append=on
        -device virtio-serial-pci
        -device virtserialport,chardev=out,nr=1 -device virtserialport,chardev=err,nr=2
    )
    if [[ ${KST_VM_KVM-} == 1 ]]; then
        vm_qemu+=(-accel kvm -cpu host)
    else
        vm_qemu+=(-accel tcg -cpu "$vm_cpu")
    fi
    read -ra more <<<"${KST_VM_QEMU_OPTS-}"
    vm_qemu+=("${more[@]}")
}

# Exits, too.
vm_explain_death() {
    local run=$1 status=$2
    if ((status == 124 || status == 137)) && ((vm_timeout > 0 && SECONDS - vm_started >= vm_timeout)); then
        say "the VM was stopped after KST_VM_TIMEOUT=$vm_timeout seconds"
        exit 124
    fi
    say "the VM died before the command ended (QEMU's exit status: $status)"
    if [[ -s $run/console ]]; then
        say "its last words:"
        tail -n 40 "$run/console" | tr -d '\r' >&2
    fi
    exit 125
}

# Ends the VM whatever ends us; the guest has nothing to save that the command has not finished.
vm_stop() {
    if [[ -n ${vm_pid-} ]]; then
        kill "$vm_pid" 2>/dev/null || true
        wait "$vm_pid" 2>/dev/null || true
    fi
    rm -rf "$vm_run_dir"
}

# Runs its arguments in the image's VM and exits with the command's status: call it last, or in a subshell.
vm_run() {
    local image=$1 out err status=0
    shift
    # A closed descriptor 0 would be taken by the next file that is opened.
    exec </dev/null

    # Not in $TMPDIR: the guest must see it, and has a /run and a /dev of its own.
    vm_run_dir=$(mktemp -d /tmp/in-kernel.XXXXXX)
    trap vm_stop EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP

    vm_command "$@" >"$vm_run_dir/command"
    vm_keep "$vm_run_dir"
    mkfifo "$vm_run_dir/out" "$vm_run_dir/err"
    cat "$vm_run_dir/out" &
    out=$!
    cat "$vm_run_dir/err" >&2 &
    err=$!
    exec 3>"$vm_run_dir/out" 4>"$vm_run_dir/err"

    vm_qemu_command "$image" "$vm_run_dir"
    vm_timeout=${KST_VM_TIMEOUT:-3600}
    vm_started=$SECONDS
    # Not even a SIGKILL of this script leaves a VM behind.
    setpriv --pdeathsig TERM timeout --foreground --kill-after=5 "$vm_timeout" "${vm_qemu[@]}" \
        >"$vm_run_dir/qemu" 2>&1 &
    vm_pid=$!
    exec 3>&- 4>&-

    wait "$vm_pid" 2>/dev/null || status=$?
    vm_pid=
    wait "$out" "$err" || true

    if [[ -s $vm_run_dir/status ]]; then
        exit "$(<"$vm_run_dir/status")"
    fi
    cat "$vm_run_dir/qemu" >&2
    vm_explain_death "$vm_run_dir" "$status"
}
