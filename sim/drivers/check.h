/* SPDX-License-Identifier: BSD-2-Clause */
/* CHECK(condition) for programs that test: ends them with status 1 and says where. */

#ifndef HEATVIT_CHECK_H
#define HEATVIT_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

#endif
