/* What the parts of the simulated libnvidia-ml share. A handle points into tables of this process; the machine itself is shared. */
#ifndef SIMULATOR_MANAGEMENT_H
#define SIMULATOR_MANAGEMENT_H

#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include <nvml.h>

#include "../core/machine.h"

struct nvmlDevice_st {
    unsigned card, part, instance; /* part 0: the card itself; else the compute instance's place in its GPU instance */
};

struct nvmlGpuInstance_st {
    unsigned card, part;
};

struct nvmlComputeInstance_st {
    unsigned card, part, place;
};

extern struct machine *machine;

/* initialisation.c */
nvmlReturn_t begin(const char *name); /* logs; refuses before nvmlInit; else takes the machine's lock and brings it up to date */
nvmlReturn_t end(nvmlReturn_t result); /* lets the lock go and passes the result on */
nvmlReturn_t refuse(const char *name);
nvmlReturn_t put_text(char *to, unsigned room, const char *text);

/* devices.c */
nvmlDevice_t card_handle(unsigned card);
nvmlDevice_t mig_handle(unsigned card, unsigned part, unsigned instance);
bool is_handle(nvmlDevice_t device);
const struct card_description *about(nvmlDevice_t device);

/* mig_instances.c */
nvmlGpuInstance_t gpu_handle(unsigned card, unsigned part);
struct gpu_instance *gpu_instance_of(nvmlGpuInstance_t instance);
const struct profile_description *profile_by_id(unsigned card, unsigned id);
unsigned instances_of(unsigned card, const struct profile_description *profile);
unsigned remaining(unsigned card, const struct profile_description *profile);
bool place_is_free(unsigned card, unsigned start, unsigned size);
bool part_in_use(unsigned card, unsigned part);

#define EXPORTED __attribute__((visibility("default")))

#endif
