# SPDX-License-Identifier: BSD-2-Clause
#
# Checks the packaged core and puts it into the catalog of the open project.
# Needs: settings.tcl, $here, $work. Leaves: the core $core_vlnv in the catalog.

# A copy: Vivado writes to a core that it checks.
set catalog [file join $work ip]
file delete -force $catalog
file mkdir $catalog
file copy [file join $here .. ip heatvit] $catalog

set component [file join $catalog heatvit component.xml]
ipx::open_core $component
ipx::update_checksums [ipx::current_core]
ipx::check_integrity [ipx::current_core]
ipx::save_core [ipx::current_core]
ipx::unload_core $component

set_property ip_repo_paths [list $catalog] [current_project]
update_ip_catalog -rebuild
