# shellcheck shell=bash
# What is made once and kept: a directory below $XDG_CACHE_HOME. Sourced; the one who sources it has say and die.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/kube-service-tunnel

# cached PREFIX FILE MAKE: prints the directory PREFIX-HASH of the cache; runs MAKE DIRECTORY first if need be. What MAKE
# fills is complete or not there: it is renamed into place. HASH follows the content of FILE.
cached() {
    local prefix=$1 make=$3 directory
    directory=$cache/$prefix-$(sha256sum <"$2" | cut -c1-12)
    if [[ ! -d $directory ]]; then
        mkdir -p "$cache"
        (
            flock 9
            [[ ! -d $directory ]] || exit 0
            say "making $prefix, once, in $cache"
            rm -rf "$cache/tmp-$prefix".* "$cache/$prefix"-*
            tmp=$(mktemp -d "$cache/tmp-$prefix.XXXXXX")
            "$make" "$tmp"
            mv "$tmp" "$directory"
        ) 9>"$cache/lock-$prefix" >&2
    fi
    printf '%s\n' "$directory"
}
