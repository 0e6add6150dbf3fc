# SPDX-License-Identifier: BSD-2-Clause
#
# Checks the packaged core and puts it into the catalog of the open project.
# Needs: settings.tcl, $here. Leaves: the core $core_vlnv in the catalog.

set component [file join $here .. ip heatvit component.xml]
ipx::open_core $component
ipx::update_checksums [ipx::current_core]
ipx::check_integrity [ipx::current_core]
ipx::save_core [ipx::current_core]
ipx::unload_core $component

set_property ip_repo_paths [list [file join $here .. ip]] [current_project]
update_ip_catalog -rebuild
