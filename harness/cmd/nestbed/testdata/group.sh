#!/bin/sh
# Shows what a script finds in the guest, and ends with the status that it is given.
echo "device $NESTBED_BDF, $NESTBED_DEVICES of them, $NESTBED_DEVICE"
test -c "/dev/vfio/$NESTBED_GROUP" && echo "group $1"
exit "$2"
