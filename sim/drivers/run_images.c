/* SPDX-License-Identifier: BSD-2-Clause */
/* run_images SIMULATOR MODEL poll|interrupt [FRAME ...]: the self-test, then every frame in a run
 * of its own, then all of them in one run, through the driver; prints what it reads. */

#include <stdlib.h>
#include <string.h>

#include "heatvit_linux.h"
#include "heatvit_sim.h"

#define SECOND 1000000u

static int report(const struct heatvit *core)
{
    char text[HEATVIT_MESSAGE_BYTES];
    printf("error %d %s\n", core->error, heatvit_message(core, text, sizeof text));
    return 1;
}

static int show(struct heatvit *core, const char *run, uint32_t image)
{
    const uint32_t patches = heatvit_field(core, HEATVIT_MODEL_PATCHES);
    struct heatvit_result result;
    uint32_t i, selector, tokens, left;
    uint8_t *kept;
    if (heatvit_result(core, image, &result))
        return report(core);
    printf("%s %u top_class %u top_logit %d tokens %u logits", run, (unsigned)image,
           (unsigned)result.top_class, (int)result.top_logit, (unsigned)result.tokens);
    for (i = 0; i < result.classes; i++)
        printf(" %d", (int)result.logits[i]);
    printf("\n");
    /* The registers are those of the last round. */
    if (image + heatvit_field(core, HEATVIT_MODEL_IMAGES) < core->run_images)
        return 0;
    kept = malloc(patches);
    for (selector = 0; selector < heatvit_field(core, HEATVIT_MODEL_SELECTORS); selector++) {
        if (heatvit_selection(core, image, selector, &tokens, &left) ||
            heatvit_kept(core, image, selector, kept)) {
            free(kept);
            return report(core);
        }
        printf("%s %u selector %u tokens %u patches %u kept ", run, (unsigned)image,
               (unsigned)selector, (unsigned)tokens, (unsigned)left);
        for (i = 0; i < patches; i++)
            putchar('0' + kept[i]);
        printf("\n");
    }
    free(kept);
    return 0;
}

static int show_counters(struct heatvit *core, const char *run)
{
    struct heatvit_counters counters;
    unsigned int cause;
    heatvit_read_counters(core, &counters);
    printf("%s counters cycles %llu bytes_read %u bytes_written %u images_done %u", run,
           (unsigned long long)counters.cycles, (unsigned)counters.bytes_read,
           (unsigned)counters.bytes_written, (unsigned)counters.images_done);
    for (cause = 0; cause < HEATVIT_STALLS; cause++)
        printf(" %s %u", heatvit_stall_name(cause), (unsigned)counters.stalls[cause]);
    printf("\n");
    return 0;
}

/* Runs the frames at words, copied to the first images, and prints the answers. */
static int run(struct heatvit *core, const char *name, uint32_t count, char **words)
{
    uint32_t i;
    for (i = 0; i < count; i++) {
        size_t bytes = 0;
        void *frame = heatvit_linux_read(words[i], &bytes);
        if (!frame || bytes != heatvit_field(core, HEATVIT_MODEL_FRAME_BYTES)) {
            free(frame);
            printf("error 0 %s is no frame of this model\n", words[i]);
            return 1;
        }
        memcpy(heatvit_frame(core, i), frame, bytes);
        free(frame);
    }
    if (heatvit_run(core, count, 60 * SECOND))
        return report(core);
    for (i = 0; i < count; i++)
        if (show(core, name, i))
            return 1;
    return show_counters(core, name);
}

static int run_all(struct heatvit *core, uint32_t count, char **words)
{
    const uint32_t in_round = heatvit_field(core, HEATVIT_MODEL_IMAGES);
    uint32_t i;
    if (heatvit_self_test(core, 60 * SECOND))
        return report(core);
    printf("self-test passed, model %s\n", heatvit_name(core));
    for (i = 0; i + in_round <= count; i += in_round)
        if (run(core, "alone", in_round, words + i))
            return 1;
    return count > in_round ? run(core, "together", count, words) : 0;
}

int main(int count, char **words)
{
    struct heatvit_sim sim;
    struct heatvit_port port;
    struct heatvit core;
    size_t bytes = 0;
    void *file;
    const int frames = count - 4;
    int status;
    if (count < 4 || !(file = heatvit_linux_read(words[2], &bytes))) {
        fprintf(stderr, "usage: %s SIMULATOR MODEL poll|interrupt [FRAME ...]\n", words[0]);
        return 2;
    }
    /* The sizes of a file that is broken do not matter: it is not loaded. */
    heatvit_sim_open(&sim, words[1], bytes + (size_t)(frames + 4) * (1u << 20), &port,
                     !strcmp(words[3], "poll"));
    status = heatvit_open(&core, &port) ||
             heatvit_load(&core, file, bytes, &sim.memory, (uint32_t)frames)
                 ? report(&core)
                 : run_all(&core, (uint32_t)frames, words + 4);
    if (heatvit_close(&core) && !status)
        status = report(&core);
    heatvit_sim_close(&sim);
    free(file);
    return status;
}
