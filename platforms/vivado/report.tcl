# SPDX-License-Identifier: BSD-2-Clause
#
# Timing and utilisation of the open implementation as JSON.

# Returns used and available of the first row of a utilisation report that a pattern names.
proc used {text pattern} {
    foreach line [split $text "\n"] {
        set cells [split $line "|"]
        if {[llength $cells] > 4 && [regexp "^$pattern\\*?$" [string trim [lindex $cells 1]]]} {
            return [list [string trim [lindex $cells 2]] [string trim [lindex $cells end-2]]]
        }
    }
    return {null null}
}

# Returns the slack in nanoseconds of the worst path, for -setup or for -hold.
proc slack {check} {
    return [get_property SLACK [get_timing_paths -max_paths 1 $check]]
}

# Writes $path and returns whether timing is met.
proc write_report {path board configuration part clock_mhz clock_hz} {
    set text [report_utilization -return_string]
    set parts {}
    foreach {name pattern} {
        luts {(CLB|Slice) LUTs} ff {(CLB|Slice) Registers} dsp DSPs
        bram {Block RAM Tile} uram URAM
    } {
        lassign [used $text $pattern] taken available
        lappend parts "    \"$name\": {\"used\": $taken, \"available\": $available}"
    }
    set setup [slack -setup]
    set hold [slack -hold]
    set met [expr {$setup >= 0 && $hold >= 0 ? "true" : "false"}]
    set file [open $path w]
    puts $file "{"
    puts $file "  \"board\": \"$board\","
    puts $file "  \"configuration\": \"$configuration\","
    puts $file "  \"part\": \"$part\","
    puts $file "  \"vivado\": \"[version -short]\","
    puts $file "  \"clock_mhz\": $clock_mhz,"
    puts $file "  \"clock_hz\": $clock_hz,"
    puts $file "  \"setup_slack_ns\": $setup,"
    puts $file "  \"hold_slack_ns\": $hold,"
    puts $file "  \"timing_met\": $met,"
    puts $file "  \"utilisation\": {\n[join $parts ",\n"]\n  }"
    puts $file "}"
    close $file
    return $met
}
