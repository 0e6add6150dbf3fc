/* SPDX-License-Identifier: BSD-2-Clause */
/* linux_interrupt UIO BUFFER SYSFS: waits for interrupts of UIO, whose file is a socket here: it
 * takes a word that unmasks the interrupt, and gives one when it has come. */

#define _POSIX_C_SOURCE 200809L

#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "heatvit_linux.h"

int main(int count, char **words)
{
    struct heatvit_linux_paths paths = {NULL, NULL, NULL, 0};
    struct heatvit_linux system;
    struct heatvit_port port;
    uint32_t word = 0;
    uint64_t start;
    int ends[2], uio;
    CHECK(count == 4);
    paths.uio = words[1];
    paths.buffer = words[2];
    paths.sysfs = words[3];
    CHECK(heatvit_linux_open(&system, &paths, &port) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0);
    uio = system.uio;
    system.uio = ends[0];

    start = port.now(port.context);
    CHECK(!port.interrupt(port.context, 20000));
    CHECK(port.now(port.context) - start >= 20000);
    CHECK(read(ends[1], &word, sizeof word) == (ssize_t)sizeof word && word == 1);

    word = 7;
    CHECK(write(ends[1], &word, sizeof word) == (ssize_t)sizeof word);
    start = port.now(port.context);
    CHECK(port.interrupt(port.context, 10000000));
    CHECK(port.now(port.context) - start < 5000000);

    system.uio = uio;
    close(ends[0]);
    close(ends[1]);
    heatvit_linux_close(&system);
    return 0;
}
