# SPDX-License-Identifier: BSD-2-Clause
#
# The block design: processing system, core, a SmartConnect for each of their buses, reset,
# interrupt and address map. Needs: settings.tcl, the core in the catalog.
# Leaves: $design, saved; $clock_hz, the clock as the processing system makes it.

create_bd_design $design

# Processing system: the preset of the board, then what the core needs of it.
set ps [create_bd_cell -type ip -vlnv $ps_vlnv $ps_cell]
apply_bd_automation -rule $ps_rule -config $ps_rule_options $ps
set_property -dict $ps_properties $ps

set core [create_bd_cell -type ip -vlnv $core_vlnv $core_cell]
set reset [create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset_0]

# One clock for all. The reset of the core is released with that clock.
set clocked [list reset_0/slowest_sync_clk $ps_cell/$ps_master_clock $core_cell/ap_clk]
set resets [list $core_cell/ap_rst_n]

# Connects two interfaces through a SmartConnect, which converts protocol and widths.
proc through {name from to} {
    upvar clocked clocked resets resets
    set cell [create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect $name]
    set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1} $cell
    connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $name/S00_AXI]
    connect_bd_intf_net [get_bd_intf_pins $name/M00_AXI] [get_bd_intf_pins $to]
    lappend clocked $name/aclk
    lappend resets $name/aresetn
}

through control_0 $ps_cell/$ps_master $core_cell/$control_interface
foreach {interface ps_port ps_port_clock segments} $memory_ports {
    through memory_$interface $core_cell/$interface $ps_cell/$ps_port
    lappend clocked $ps_cell/$ps_port_clock
}

foreach pin $clocked {
    connect_bd_net [get_bd_pins $ps_cell/$ps_clock] [get_bd_pins $pin]
}
connect_bd_net [get_bd_pins $ps_cell/$ps_reset] [get_bd_pins reset_0/ext_reset_in]
foreach pin $resets {
    connect_bd_net [get_bd_pins reset_0/peripheral_aresetn] [get_bd_pins $pin]
}
connect_bd_net [get_bd_pins $core_cell/interrupt] [get_bd_pins $ps_cell/$ps_interrupt]

# Addresses: the registers for the processors; memory, and nothing else, for the core.
assign_bd_address -offset $control_address -range $control_bytes \
    -target_address_space [get_bd_addr_spaces $ps_cell/$ps_space] \
    [get_bd_addr_segs $core_cell/$control_interface/$control_block]
foreach {interface ps_port ps_port_clock segments} $memory_ports {
    set space [get_bd_addr_spaces $core_cell/$interface]
    set wanted {}
    foreach {segment offset bytes} $segments {
        lappend wanted /$ps_cell/$segment
        assign_bd_address -offset $offset -range $bytes -target_address_space $space \
            [get_bd_addr_segs $ps_cell/$segment]
    }
    foreach segment [get_bd_addr_segs -of_objects [get_bd_intf_pins $ps_cell/$ps_port]] {
        if {[lsearch -exact $wanted $segment] < 0} {
            exclude_bd_addr_seg -target_address_space $space $segment
        }
    }
}

validate_bd_design
set clock_hz [get_property CONFIG.FREQ_HZ [get_bd_pins $ps_cell/$ps_clock]]
save_bd_design
