# SPDX-License-Identifier: BSD-2-Clause
#
# From the core to a bitstream: vivado -mode batch -source vivado/build.tcl
# Leaves in output/: heatvit.bit, heatvit.hwh, heatvit.xsa, report.json, the reports as text, and
# for devices that have one the device tree.

set here [file dirname [file normalize [info script]]]
source [file join $here settings.tcl]
source [file join $here report.tcl]
set work [file join $here .. work]
set output [file join $here .. output]
file mkdir $output

create_project -force heatvit $work -part $part
set found [get_board_parts -quiet -latest_file_version $board_part:*]
if {[llength $found] == 0} {
    error "Vivado has no board files of $board_part: install them (Tools, Vivado Store)"
}
set_property board_part [lindex $found 0] [current_project]
if {$board_connections ne ""} {
    set_property board_connections $board_connections [current_project]
}

source [file join $here package.tcl]
source [file join $here design.tcl]
source [file join $here linux.tcl]

add_files -norecurse [make_wrapper -files [get_files $design.bd] -top]
set_property top ${design}_wrapper [current_fileset]
add_files -fileset constrs_1 -norecurse [file join $here heatvit.xdc]
update_compile_order -fileset sources_1

# Runs a run to its end, or to the step that is named.
proc finish {run args} {
    launch_runs $run {*}$args
    wait_on_run $run
    if {[get_property PROGRESS [get_runs $run]] ne "100%"} {
        error "$run ended with [get_property STATUS [get_runs $run]]: see [get_property DIRECTORY\
            [get_runs $run]]/runme.log"
    }
}
finish synth_1 -jobs $jobs
finish impl_1 -to_step write_bitstream -jobs $jobs

open_run impl_1
report_timing_summary -file [file join $output timing.rpt]
report_utilization -hierarchical -file [file join $output utilisation.rpt]

file copy -force [file join [get_property DIRECTORY [get_runs impl_1]] ${design}_wrapper.bit] \
    [file join $output heatvit.bit]
# Vivado 2020.2 and later have it in .gen, earlier ones in .srcs.
set handoff [glob -nocomplain -directory $work \
    heatvit.{gen,srcs}/sources_1/bd/$design/hw_handoff/$design.hwh]
if {[llength $handoff] == 0} {
    error "Vivado has written no $design.hwh below $work"
}
file copy -force [lindex $handoff 0] [file join $output heatvit.hwh]
write_hw_platform -fixed -include_bit -force -file [file join $output heatvit.xsa]

# The last: what reads it takes it that all else is there.
set met [write_report [file join $output report.json] $board $configuration $part $clock_mhz \
    $clock_hz]
if {!$met} {
    error "timing is not met at $clock_mhz MHz: set a lower clock_mhz in settings.tcl, run again"
}
puts "Done: [file normalize [file join $output heatvit.bit]]"
