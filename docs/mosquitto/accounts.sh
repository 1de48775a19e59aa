#!/bin/sh
# Keeps the accounts of a Mosquitto with the dynamic security plug-in, while it
# runs. Whoever is not allowed any more is disconnected at once.
#
#   accounts.sh setup               once: what is allowed to whom, and the
#                                   account signalbox
#   accounts.sh add CLIENT_ID       a device
#   accounts.sh password CLIENT_ID  another password, of signalbox as well
#   accounts.sh revoke CLIENT_ID    it may not connect until it is restored
#   accounts.sh restore CLIENT_ID
#   accounts.sh remove CLIENT_ID
#
# setup, add and password read the password from standard input. How
# mosquitto_ctrl reaches the broker is in ~/.config/mosquitto_ctrl, one option on
# a line (-h, -p, -u, -P, --cafile), so that no password is in the list of
# processes.
set -eu

fail() {
    echo "$1" >&2
    exit 2
}

# mosquitto_ctrl says what went wrong, and ends with 0 all the same.
dynsec() {
    said=$(mosquitto_ctrl dynsec "$@" 2>&1) || fail "$said"
    case $said in
    *[Ee]rror*) fail "$said" ;;
    esac
}

# account NAME: makes it, with a password from standard input, which
# mosquitto_ctrl asks for twice. Its MQTT client id is its name and no other, so
# that nobody can take over the session of somebody else.
account() {
    password
    printf '%s\n%s\n' "$password" "$password" | dynsec createClient "$1" -c "$1"
}

password() {
    IFS= read -r password || [ -n "$password" ]
    [ -n "$password" ] || fail "there is no password on standard input"
}

# writes ROLE TOPIC, reads ROLE TOPIC: nothing else is allowed.
writes() { dynsec addRoleACL "$1" publishClientSend "$2" allow; }
reads() {
    dynsec addRoleACL "$1" subscribePattern "$2" allow
    dynsec addRoleACL "$1" publishClientReceive "$2" allow
}

do=${1:?setup, add, password, revoke, restore or remove}
if [ "$do" = setup ]; then
    for access in publishClientSend publishClientReceive subscribe; do
        dynsec setDefaultACLAccess "$access" deny
    done

    # What is the same for all devices; "add" has the rest.
    dynsec createRole device
    reads device 'iotsupport/updates/+'

    dynsec createRole signalbox
    reads signalbox 'iotsupport/logsink'
    reads signalbox 'iotsupport/logsink/+'
    writes signalbox 'iotsupport/updates/+'
    writes signalbox 'iotsupport/+/rotation'
    writes signalbox 'iotsupport/_flush/+'
    account signalbox
    dynsec addClientRole signalbox signalbox
    exit
fi

id=${2:?the client id of the device}
case $do$id in
*[!a-z0-9_-]*) fail "$id is not the client id of a device" ;;
passwordsignalbox) ;;
*iotdevice-*-????????) ;;
*) fail "$id is not the client id of a device" ;;
esac
case $do in
add)
    dynsec createRole "$id"
    writes "$id" "iotsupport/logsink/$id"
    writes "$id" "iotsupport/telemetry/$id/#"
    reads "$id" "iotsupport/$id/rotation"
    account "$id"
    dynsec addClientRole "$id" device
    dynsec addClientRole "$id" "$id"
    ;;
password)
    password
    printf '%s\n%s\n' "$password" "$password" | dynsec setClientPassword "$id"
    ;;
revoke) dynsec disableClient "$id" ;;
restore) dynsec enableClient "$id" ;;
remove)
    dynsec deleteClient "$id"
    dynsec deleteRole "$id"
    ;;
*) fail "setup, add, password, revoke, restore or remove" ;;
esac
