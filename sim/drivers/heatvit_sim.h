/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The simulated core as a port of the driver: a process that is given the commands of
 * sim/cpp/main.cpp. Every access of a register takes its cycles; time is that of the simulation.
 * The processor sees its own copy of memory, as behind a cache that writes nothing back by itself:
 * what is not flushed never reaches the core, and the other way round.
 */

#ifndef HEATVIT_SIM_H
#define HEATVIT_SIM_H

#include <stdio.h>
#include <sys/types.h>

#include "heatvit.h"

struct heatvit_sim {
    struct heatvit_memory memory;
    unsigned int cycles_per_microsecond;
    pid_t process;
    FILE *to, *from;
    char file[64]; /* through which memory is copied */
};

/* Starts the simulation; anything that goes wrong with it ends this process. */
void heatvit_sim_open(struct heatvit_sim *sim, const char *program, size_t memory_bytes,
                      struct heatvit_port *port, int polled);
void heatvit_sim_close(struct heatvit_sim *sim);

/* Gives a command that has no answer. */
void heatvit_sim_command(struct heatvit_sim *sim, const char *command);

#endif
