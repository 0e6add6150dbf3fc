/* SPDX-License-Identifier: BSD-2-Clause */
/* Linux command: the self-test of a model, then frames: classify [OPTIONS] MODEL [FRAME ...]. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heatvit_linux.h"

#define SECOND 1000000u

static void show(struct heatvit *core, const char *name)
{
    struct heatvit_result result;
    struct heatvit_counters counters;
    uint32_t selector, tokens, patches;
    unsigned int cause;
    heatvit_result(core, 0, &result);
    heatvit_read_counters(core, &counters);
    printf("%s: class %u, logit %d, %u tokens left, %llu cycles\n", name,
           (unsigned)result.top_class, (int)result.top_logit, (unsigned)result.tokens,
           (unsigned long long)counters.cycles);
    for (selector = 0; selector < heatvit_field(core, HEATVIT_MODEL_SELECTORS); selector++)
        if (heatvit_selection(core, 0, selector, &tokens, &patches) == 0)
            printf("  selector %u kept %u of %u patches\n", (unsigned)selector, (unsigned)patches,
                   (unsigned)heatvit_field(core, HEATVIT_MODEL_PATCHES));
    printf("  cycles:");
    for (cause = 0; cause < HEATVIT_STALLS; cause++)
        printf(" %s %u", heatvit_stall_name(cause), (unsigned)counters.stalls[cause]);
    printf("\n");
}

/* Puts a file of pixels where image 0 is read; not 0 if it is not of the right size. */
static int read_frame(struct heatvit *core, const char *path)
{
    size_t bytes = 0;
    const size_t wanted = heatvit_field(core, HEATVIT_MODEL_FRAME_BYTES);
    void *data = heatvit_linux_read(path, &bytes);
    if (!data) {
        fprintf(stderr, "%s cannot be read: %s\n", path, strerror(errno));
        return 1;
    }
    if (bytes == wanted)
        memcpy(heatvit_frame(core, 0), data, bytes);
    else
        fprintf(stderr, "%s has %zu bytes, must have %zu\n", path, bytes, wanted);
    free(data);
    return bytes != wanted;
}

static int classify(struct heatvit *core, int count, char **frames)
{
    char text[HEATVIT_MESSAGE_BYTES];
    int i;
    if (heatvit_self_test(core, 10 * SECOND)) {
        fprintf(stderr, "%s\n", heatvit_message(core, text, sizeof text));
        return 1;
    }
    show(core, "self-test passed");
    for (i = 0; i < count; i++) {
        if (read_frame(core, frames[i]))
            return 1;
        if (heatvit_run(core, heatvit_field(core, HEATVIT_MODEL_IMAGES), 10 * SECOND)) {
            fprintf(stderr, "%s: %s\n", frames[i], heatvit_message(core, text, sizeof text));
            return 1;
        }
        show(core, frames[i]);
    }
    return 0;
}

int main(int count, char **words)
{
    struct heatvit_linux_paths paths = HEATVIT_LINUX_PATHS;
    struct heatvit_linux system;
    struct heatvit_port port;
    struct heatvit core;
    char text[HEATVIT_MESSAGE_BYTES];
    size_t bytes = 0;
    void *file;
    int i, status = 1;
    for (i = 1; i < count && words[i][0] == '-'; i++) {
        if (!strcmp(words[i], "--poll"))
            paths.polled = 1;
        else if (!strcmp(words[i], "--uio") && i + 1 < count)
            paths.uio = words[++i];
        else if (!strcmp(words[i], "--buffer") && i + 1 < count)
            paths.buffer = words[++i];
        else if (!strcmp(words[i], "--sysfs") && i + 1 < count)
            paths.sysfs = words[++i];
        else
            break;
    }
    if (i >= count || words[i][0] == '-') {
        fprintf(stderr, "usage: %s [--poll] [--uio FILE] [--buffer FILE] [--sysfs FOLDER]"
                        " MODEL [FRAME ...]\n", words[0]);
        return 2;
    }
    file = heatvit_linux_read(words[i], &bytes);
    if (!file) {
        fprintf(stderr, "%s cannot be read: %s\n", words[i], strerror(errno));
        return 1;
    }
    if (heatvit_linux_open(&system, &paths, &port)) {
        fprintf(stderr, "%s cannot be opened or mapped: %s\n", system.failed,
                strerror(system.reason));
        free(file);
        return 1;
    }
    if (heatvit_open(&core, &port) || heatvit_load(&core, file, bytes, &system.memory, 0))
        fprintf(stderr, "%s\n", heatvit_message(&core, text, sizeof text));
    else
        status = classify(&core, count - i - 1, words + i + 1);
    heatvit_close(&core);
    heatvit_linux_close(&system);
    free(file);
    return status;
}
