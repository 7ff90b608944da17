# shellcheck shell=bash
# What the VM boots: a Debian kernel package, unpacked into the cache, never installed. Sourced by in-kernel.

# shellcheck source-path=SCRIPTDIR source=cache.sh
source "${lib:?}/cache.sh"

vm_require_tools() {
    local tool
    for tool in qemu-system-x86_64 busybox apt-get dpkg depmod xz flock setpriv; do
        command -v "$tool" >/dev/null || die "$tool is missing; run hack/install"
    done
    # There are no libraries beside it in the initial RAM disk.
    if ldd "$(command -v busybox)" >/dev/null 2>&1; then
        die "busybox needs libraries; run hack/install"
    fi
}

# Prints the directory of the image (vmlinuz, initrd, modules, release); makes it first if need be. Its name follows this
# file's content.
vm_image() {
    cached "vm${KST_VM_KERNEL-}" "${BASH_SOURCE[0]}" vm_image_make
}

vm_image_make() {
    local image=$1 package
    package=$(vm_newest_package)
    say "a VM of $package"
    vm_unpack "$package" "$image"
    vm_make_initrd "$image"
    vm_check_features "$image"
}

vm_packages() {
    apt-cache pkgnames linux-image- | grep -E "^linux-image-$1-amd64(-unsigned)?\$" | sort -V
}

vm_newest_package() {
    local series package wanted=${KST_VM_KERNEL:-6.12}
    local all=("${wanted//./\\.}\\.[0-9]+([-+][a-z0-9]+)?")
    [[ -n ${KST_VM_KERNEL-} ]] || all+=('[0-9][-.0-9]*(\+[a-z0-9]+)?')
    for series in "${all[@]}"; do
        package=$(vm_packages "$series" | tail -n 1) || true
        if [[ -z $package ]] && ((EUID == 0)); then
            apt-get -qq update >&2 || true
            package=$(vm_packages "$series" | tail -n 1) || true
        fi
        if [[ -n $package ]]; then
            printf '%s\n' "$package"
            return
        fi
    done
    die "apt offers no linux-image-${KST_VM_KERNEL-}*-amd64; configure a Debian archive and run apt-get update"
}

vm_download() {
    # The sandbox user of apt cannot write into the cache of root.
    (cd "$2" && apt-get -qq -o APT::Sandbox::User=root download "$1" >&2)
}

vm_unpack() {
    local package=$1 dir=$2 release from
    # Archives drop old packages: a list that is not fresh names files that are gone.
    if ! vm_download "$package" "$dir"; then
        ((EUID == 0)) || die "cannot download $package; run apt-get update"
        apt-get -qq update >&2
        package=$(vm_newest_package)
        vm_download "$package" "$dir" || die "cannot download $package"
    fi
    dpkg -x "$dir"/linux-image-*.deb "$dir/package"
    rm "$dir"/linux-image-*.deb

    mv "$dir"/package/boot/vmlinuz-* "$dir/vmlinuz"
    for from in "$dir"/package/{,usr/}lib/modules/*; do
        [[ -d $from/kernel ]] && break
    done
    release=${from##*/}
    vm_take_modules "$from" "$dir/root/lib/modules/$release"
    rm -rf "$dir/package"
    depmod -b "$dir/root" "$release"
    printf '%s\n' "$release" >"$dir/release"
}

# Only what a VM without hardware can use, unpacked: under emulation the decompression is what loading waits for.
vm_take_modules() {
    local from=$1 to=$2 part
    mkdir -p "$to"
    cp "$from"/modules.{builtin,builtin.modinfo,order} "$to/"
    for part in arch block crypto fs lib net drivers/{block,char,net,virtio}; do
        [[ -d $from/kernel/$part ]] || continue
        mkdir -p "$to/kernel/$part"
        mv "$from/kernel/$part"/* "$to/kernel/$part/"
    done
    rm -rf "$to"/kernel/drivers/net/{ethernet,wireless,usb,can}
    find "$to" -name '*.ko.xz' -print0 | xargs -0 --no-run-if-empty -P "$(nproc)" -n 32 xz -d
    vm_unsign_modules "$to"
}

# Checking the signature is most of what loading a module costs an emulated CPU (ECDSA: 60 to 100 ms each), and no kernel of a distribution
# insists on it here. A module ends with the signature, `struct module_signature` of 12 bytes, the last four of which are
# the signature's length, and a line of 28 bytes (include/linux/module_signature.h).
vm_unsign_modules() {
    local module length
    while IFS= read -r -d '' module; do
        [[ $(tail -c 28 "$module") == '~Module signature appended~' ]] || continue
        length=$((16#$(tail -c 32 "$module" | head -c 4 | od -An -tx1 | tr -d ' ')))
        truncate -s "-$((length + 12 + 28))" "$module"
    done < <(find "$1" -name '*.ko' -print0)
}

# Prints the modules that the files of the host need, each after those that it depends on itself.
vm_load_order() {
    awk -F '[: ]+' '/\/(virtio_pci|virtio_console|9pnet_virtio|9p)\.ko:/ { for (i = NF; i > 0; i--) if ($i != "" && !seen[$i]++) print $i }' "$1"
}

# The initial RAM disk does no more than mount the files of the host and hand over to vm-init there, so that vm-init
# can change without a new image.
vm_make_initrd() {
    local dir=$1 tree=$1/initrd.d module number=10
    mkdir -p "$tree"/{bin,proc,dev,root,modules}
    cp "$(command -v busybox)" "$tree/bin/busybox"
    # In the order in which they are loaded: what a series needs for it differs.
    for module in $(vm_load_order "$dir"/root/lib/modules/*/modules.dep); do
        cp "$dir"/root/lib/modules/*/"$module" "$tree/modules/$number-${module##*/}"
        number=$((number + 1))
    done
    cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
# busybox finds its applets through /proc/self/exe.
/bin/busybox mount -t proc proc /proc
for module in /modules/*.ko; do
    insmod "$module"
done
for word in $(cat /proc/cmdline); do
    case $word in
        kst.init=*) init=${word#kst.init=} ;;
        kst.root=*) options=${word#kst.root=} ;;
    esac
done
mount -t 9p -o "$options" root /root || exec echo "cannot mount the files of the host"
mount -o move /proc /root/proc
exec /root/bin/busybox switch_root /root /bin/bash "$init"
INIT
    chmod 755 "$tree/init"
    (cd "$tree" && find . | busybox cpio -o -H newc 2>/dev/null) >"$dir/initrd"
    rm -rf "$tree"
}

# A kernel of another series may lack something; better said now than by a strange failure of a test.
vm_check_features() {
    local missing
    missing=$(vm_run "$1" "${lib:?}/kernel-features")
    [[ -z $missing ]] || die "the VM's kernel, $(<"$1/release"), lacks $missing"
}
