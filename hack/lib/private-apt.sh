# shellcheck shell=bash
# Packages of a Debian suite from a private apt root: the machine's configuration stays (proxies, credentials); its sources, lists and
# installed packages do not count. Nothing is installed. Sourced; the one who sources it has say and die.

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

require_apt() {
    local tool
    for tool in apt-get dpkg flock; do
        command -v "$tool" >/dev/null || die "$tool is missing; Debian packages need a Debian"
    done
    [[ -r $keyring ]] || die "$keyring is missing; apt-get install debian-archive-keyring"
}

# The Debian archive that this machine's own sources name. apt knows an archive's origin when it has its lists.
mirror() {
    local look uri
    for look in lists update; do
        if [[ $look == update ]] && ((EUID == 0)); then
            apt-get -qq update >&2 || true
        fi
        # shellcheck disable=SC2016  # the format is apt's
        uri=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Identifier: Packages' |
            sed -n 's/^Debian|Debian|//p' | head -n 1)
        if [[ -n $uri ]]; then
            printf '%s\n' "$uri"
            return
        fi
    done
    die "apt's sources name no Debian archive; add one and run apt-get update"
}

private_apt() {
    local apt=$1
    shift
    apt-get -qq -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts="$apt/none" \
        -o Dir::Etc::preferencesparts="$apt/none" \
        -o Dir::State="$apt/state" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
        -o Acquire::Languages=none -o APT::Sandbox::User=root "$@" >&2
}

# download_packages APT SUITE PACKAGE...: leaves the packages, and all that they depend on down to the C library, in
# APT/cache/archives.
download_packages() {
    local apt=$1 suite=$2 uri
    shift 2
    uri=$(mirror)
    mkdir -p "$apt"/none "$apt"/state/lists/partial "$apt"/cache/archives/partial
    # With no package installed, what they need comes along.
    touch "$apt/status"
    printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$uri" "$suite" >"$apt/sources.list"
    private_apt "$apt" -o APT::Update::Error-Mode=any update || die "cannot read $suite of $uri"
    private_apt "$apt" --yes --no-install-recommends --download-only install "$@"
}
