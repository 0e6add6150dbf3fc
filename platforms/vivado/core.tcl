# SPDX-License-Identifier: BSD-2-Clause
#
# The core alone, out of context: checks the package, places and routes, and reports.
# Leaves in output/: heatvit.dcp, report.json, and the reports as text.

set here [file dirname [file normalize [info script]]]
source [file join $here settings.tcl]
source [file join $here report.tcl]
set work [file join $here .. work]
set output [file join $here .. output]
file mkdir $output

create_project -force heatvit $work -part $part
source [file join $here package.tcl]

read_verilog [file join $here .. ip heatvit src heatvit.v]
read_xdc -mode out_of_context [file join $here core.xdc]
synth_design -top heatvit -part $part -mode out_of_context
opt_design
place_design
phys_opt_design
route_design
write_checkpoint -force [file join $output heatvit.dcp]

report_timing_summary -file [file join $output timing.rpt]
report_utilization -hierarchical -file [file join $output utilisation.rpt]
set met [write_report [file join $output report.json] $board $configuration $part $clock_mhz \
    [expr {$clock_mhz * 1000000}]]
if {!$met} {
    error "timing is not met at $clock_mhz MHz: set a slower clock in core.xdc and settings.tcl"
}
puts "Done: [file normalize [file join $output report.json]]"
