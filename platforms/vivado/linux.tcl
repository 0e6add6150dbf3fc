# SPDX-License-Identifier: BSD-2-Clause
#
# The device tree with the clock of the block design.
# Needs: $here, $output, $clock_hz. Leaves: output/heatvit.dts, where there is a linux/heatvit.dts.in.

set tree [file join $here .. linux heatvit.dts.in]
if {[file exists $tree]} {
    set file [open $tree]
    set text [read $file]
    close $file
    if {![regsub -all @CLOCK_HZ@ $text $clock_hz text]} {
        error "$tree has no @CLOCK_HZ@"
    }
    set file [open [file join $output heatvit.dts] w]
    puts -nonewline $file $text
    close $file
}
