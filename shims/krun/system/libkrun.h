/*
 * Of libkrun's interface what this program calls, for a build against a libkrun of the system where none is installed: see
 * tools/krun-system.sh. A real one comes with its own header.
 */
#ifndef LIBKRUN_H
#define LIBKRUN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int32_t krun_init_log(int target, uint32_t level, uint32_t style, uint32_t options);
int32_t krun_create_ctx(void);
int32_t krun_set_vm_config(uint32_t ctx, uint8_t cpus, uint32_t ram_mib);
int32_t krun_disable_implicit_init(uint32_t ctx);
int32_t krun_set_env(uint32_t ctx, const char *const env[]);
int32_t krun_start_enter(uint32_t ctx);

/* Files */
int32_t krun_add_virtiofs3(uint32_t ctx, const char *tag, const char *path, uint64_t shm_size, bool read_only);
int32_t krun_fs_add_overlay_dir(uint32_t ctx, const char *tag, const char *path, uint32_t mode);
int32_t krun_fs_add_overlay_file(uint32_t ctx, const char *tag, const char *path, const uint8_t *data, size_t length,
				 uint32_t mode, bool one_shot);
int32_t krun_add_disk2(uint32_t ctx, const char *id, const char *path, uint32_t format, bool read_only);

/* Sockets and networks */
int32_t krun_disable_implicit_vsock(uint32_t ctx);
int32_t krun_add_vsock(uint32_t ctx, uint32_t tsi_features);
int32_t krun_add_vsock_port2(uint32_t ctx, uint32_t port, const char *path, bool listen);
int32_t krun_add_net_unixstream(uint32_t ctx, const char *path, int fd, uint8_t *const mac, uint32_t features,
				uint32_t flags);

/* Consoles */
int32_t krun_set_console_output(uint32_t ctx, const char *path);
int32_t krun_add_virtio_console_multiport(uint32_t ctx);
int32_t krun_add_console_port_inout(uint32_t ctx, uint32_t console, const char *name, int input, int output);

#endif
