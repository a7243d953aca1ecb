/*
 * Names: what opens, makes, moves and takes them away, and what closes a file.
 *
 * A name is looked up before the call, because afterwards it may be gone, and journalled after it, because only then it
 * is known to be so. A kill in between leaves a change that no record names; it is undone like any other.
 */
#include "watch.h"

#include <stdarg.h>

/* === opening and closing === */

/* A file that did not exist before now has a name, and not one byte of it is promised. */
static void note_creation(int fd, bool has_name)
{
    struct stat now;
    char path[PATH_MAX];
    if (fstat(fd, &now) != 0 || now.st_dev != root_device || !S_ISREG(now.st_mode) || !path_of(fd, path) ||
        !below_root(path)) {
        return;
    }
    struct file *file = find_file(now.st_ino, 0);
    if (file != NULL) {
        set(&file->synced_bytes, 0);
        set(&file->overwrite_noted, 0);
    }
    struct record record = {.kind = CREATED, .inode = now.st_ino};
    char *slash = strrchr(path, '/');
    if (!has_name || slash == NULL) {
        append(record, NULL, NULL);
        return;
    }
    *slash = '\0';
    struct stat parent;
    struct place place = {.length = strlen(slash + 1)};
    if (place.length > NAME_MAX || stat(slash == path ? "/" : path, &parent) != 0) {
        add(&control->journal_errors, 1);
        return;
    }
    place.directory = parent.st_ino;
    memcpy(place.name, slash + 1, place.length + 1);
    append(record, &place, NULL);
}

/* What was there before a file was opened that may be created or emptied by it. */
struct opening {
    bool matters;
    bool existed;
    uint64_t bytes;
    int before;
};

static struct opening begin_opening(int directory, const char *path, int flags)
{
    struct opening opening = {.before = errno};
    struct stat then;
    bool changes = (flags & (O_CREAT | O_TRUNC)) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
    opening.matters = control != NULL && changes && (flags & O_PATH) == 0;
    if (opening.matters && fstatat(directory, path, &then, 0) == 0) {
        opening.existed = !S_ISDIR(then.st_mode);
        opening.bytes = S_ISREG(then.st_mode) ? (uint64_t)then.st_size : 0;
    }
    errno = opening.before;
    return opening;
}

static void end_opening(const struct opening *opening, int fd, int flags)
{
    int after = errno;
    struct stat now;
    forget(fd);
    if (fd >= 0 && opening->matters) {
        if ((flags & O_TMPFILE) == O_TMPFILE) {
            note_creation(fd, false);
        } else if ((flags & O_CREAT) != 0 && (!opening->existed || (flags & O_EXCL) != 0)) {
            note_creation(fd, true);
        } else if ((flags & O_TRUNC) != 0 && opening->bytes > 0 && ours(fd, &now)) {
            note_truncation(now.st_ino, 0);
        }
    }
    errno = after;
}

static int do_open(int directory, const char *path, int flags, mode_t mode)
{
    struct opening opening = begin_opening(directory, path, flags);
    int fd = NEXT(openat)(directory, path, flags, mode);
    end_opening(&opening, fd, flags);
    return fd;
}

/* The mode is passed only with flags that create. */
#define MODE_AFTER(flags)                                                                                              \
    __extension__({                                                                                                    \
        mode_t mode = 0;                                                                                               \
        if (((flags) & O_CREAT) != 0 || ((flags) & O_TMPFILE) == O_TMPFILE) {                                          \
            va_list arguments;                                                                                         \
            va_start(arguments, flags);                                                                                \
            mode = va_arg(arguments, mode_t);                                                                          \
            va_end(arguments);                                                                                         \
        }                                                                                                              \
        mode;                                                                                                          \
    })

INSTEAD int open(const char *path, int flags, ...)
{
    return do_open(AT_FDCWD, path, flags, MODE_AFTER(flags));
}

INSTEAD int open64(const char *path, int flags, ...)
{
    return do_open(AT_FDCWD, path, flags, MODE_AFTER(flags));
}

INSTEAD int openat(int directory, const char *path, int flags, ...)
{
    return do_open(directory, path, flags, MODE_AFTER(flags));
}

INSTEAD int openat64(int directory, const char *path, int flags, ...)
{
    return do_open(directory, path, flags, MODE_AFTER(flags));
}

INSTEAD int creat(const char *path, mode_t mode)
{
    return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

INSTEAD int creat64(const char *path, mode_t mode)
{
    return creat(path, mode);
}

/* What a stream writes goes past this library; lengths are read at each sync all the same. */
INSTEAD FILE *fopen(const char *path, const char *mode)
{
    int flags = mode[0] == 'w' ? O_CREAT | O_TRUNC : mode[0] == 'a' ? O_CREAT : 0;
    if (strchr(mode, 'x') != NULL) {
        flags |= O_EXCL;
    }
    struct opening opening = begin_opening(AT_FDCWD, path, flags);
    FILE *stream = NEXT(fopen)(path, mode);
    end_opening(&opening, stream != NULL ? fileno(stream) : -1, flags);
    return stream;
}

INSTEAD FILE *fopen64(const char *path, const char *mode)
{
    return fopen(path, mode);
}

/* A descriptor is forgotten before it is closed: afterwards another thread may have it already. */
INSTEAD int close(int fd)
{
    if (control != NULL && fd == journal) {
        errno = EBADF;
        return -1;
    }
    forget(fd);
    return NEXT(close)(fd);
}

INSTEAD int fclose(FILE *stream)
{
    int before = errno;
    forget(fileno(stream));
    errno = before;
    return NEXT(fclose)(stream);
}

INSTEAD int closedir(DIR *stream)
{
    forget(dirfd(stream));
    return NEXT(closedir)(stream);
}

INSTEAD int dup2(int fd, int to)
{
    int result = NEXT(dup2)(fd, to);
    forget(to);
    return result;
}

INSTEAD int dup3(int fd, int to, int flags)
{
    int result = NEXT(dup3)(fd, to, flags);
    forget(to);
    return result;
}

/* === names === */

static int do_mkdir(int directory, const char *path, mode_t mode)
{
    struct place place;
    struct stat now;
    int before = errno;
    bool is_ours = find_place(directory, path, &place);
    errno = before;
    if (NEXT(mkdirat)(directory, path, mode) != 0) {
        return -1;
    }
    if (is_ours) {
        if (fstatat(directory, path, &now, AT_SYMLINK_NOFOLLOW) == 0) {
            append((struct record){.kind = CREATED, .flags = IS_FOLDER, .inode = now.st_ino}, &place, NULL);
        } else {
            add(&control->journal_errors, 1);
        }
    }
    errno = before;
    return 0;
}

INSTEAD int mkdir(const char *path, mode_t mode)
{
    return do_mkdir(AT_FDCWD, path, mode);
}

INSTEAD int mkdirat(int directory, const char *path, mode_t mode)
{
    return do_mkdir(directory, path, mode);
}

static int do_unlink(int directory, const char *path, int flags)
{
    struct place place;
    struct stat then;
    struct grave grave = {.path = ""};
    int before = errno;
    bool is_ours = find_place(directory, path, &place) && fstatat(directory, path, &then, AT_SYMLINK_NOFOLLOW) == 0 &&
                   (S_ISREG(then.st_mode) || S_ISDIR(then.st_mode));
    if (is_ours && S_ISREG(then.st_mode)) {
        bury(directory, path, &grave);
    }
    enum ending ending = is_ours ? begin_call(UNLINKS, place.name) : NEVER;
    errno = before;
    if (NEXT(unlinkat)(directory, path, flags) != 0) {
        int after = errno;
        exhume(&grave);
        errno = after;
        return -1;
    }
    if (is_ours) {
        uint16_t kind = S_ISDIR(then.st_mode) ? IS_FOLDER : 0;
        struct record record = {.kind = UNLINKED, .flags = kind, .inode = then.st_ino};
        mark(&grave, place.directory, append(record, &place, NULL));
    }
    end_call(ending);
    errno = before;
    return 0;
}

INSTEAD int unlink(const char *path)
{
    return do_unlink(AT_FDCWD, path, 0);
}

INSTEAD int unlinkat(int directory, const char *path, int flags)
{
    return do_unlink(directory, path, flags);
}

INSTEAD int rmdir(const char *path)
{
    return do_unlink(AT_FDCWD, path, AT_REMOVEDIR);
}

INSTEAD int remove(const char *path)
{
    int result = do_unlink(AT_FDCWD, path, 0);
    return result != 0 && errno == EISDIR ? do_unlink(AT_FDCWD, path, AT_REMOVEDIR) : result;
}

static int do_link(int from, const char *old, int to, const char *new, int flags)
{
    struct place source, place;
    struct stat now;
    int before = errno;
    bool is_ours = find_place(to, new, &place);
    /* A file from outside was never watched, so nothing of it is promised. One without a name is known already. */
    bool from_outside = is_ours && flags == 0 && !find_place(from, old, &source);
    errno = before;
    if (NEXT(linkat)(from, old, to, new, flags) != 0) {
        return -1;
    }
    if (is_ours) {
        if (fstatat(to, new, &now, AT_SYMLINK_NOFOLLOW) != 0) {
            add(&control->journal_errors, 1);
        } else if (S_ISREG(now.st_mode)) {
            append((struct record){.kind = from_outside ? CREATED : LINKED, .inode = now.st_ino}, &place, NULL);
        }
    }
    errno = before;
    return 0;
}

INSTEAD int link(const char *old, const char *new)
{
    return do_link(AT_FDCWD, old, AT_FDCWD, new, 0);
}

INSTEAD int linkat(int from, const char *old, int to, const char *new, int flags)
{
    return do_link(from, old, to, new, flags);
}

/* Both ends of a rename as they were before it. */
struct renaming {
    bool from_ours;
    bool to_ours;
    bool replaces;
    bool other_kind; /* neither file nor directory: such a thing is let be wherever it goes */
    struct place from;
    struct place to;
    struct stat moved;
    struct stat replaced;
    struct grave grave;
};

static void begin_renaming(struct renaming *renaming, int from, const char *old, int to, const char *new, bool swaps)
{
    renaming->grave.path[0] = '\0';
    renaming->from_ours = find_place(from, old, &renaming->from);
    renaming->to_ours = find_place(to, new, &renaming->to);
    renaming->replaces = false;
    if (!renaming->from_ours && !renaming->to_ours) {
        return;
    }
    if (fstatat(from, old, &renaming->moved, AT_SYMLINK_NOFOLLOW) != 0) {
        renaming->from_ours = renaming->to_ours = false;
        return;
    }
    renaming->other_kind = !S_ISREG(renaming->moved.st_mode) && !S_ISDIR(renaming->moved.st_mode);
    renaming->replaces = fstatat(to, new, &renaming->replaced, AT_SYMLINK_NOFOLLOW) == 0;
    if (renaming->replaces && renaming->replaced.st_ino == renaming->moved.st_ino) {
        /* Two names of one file: the system leaves both. */
        renaming->from_ours = renaming->to_ours = false;
    } else if (renaming->to_ours && renaming->replaces && !swaps && S_ISREG(renaming->replaced.st_mode)) {
        bury(to, new, &renaming->grave);
    } else if (renaming->from_ours && !renaming->to_ours && !swaps && S_ISREG(renaming->moved.st_mode)) {
        bury(from, old, &renaming->grave);
    }
}

static void end_renaming(struct renaming *renaming, bool swaps)
{
    struct record record = {.inode = renaming->moved.st_ino};
    record.flags = S_ISDIR(renaming->moved.st_mode) ? IS_FOLDER : 0;
    if (renaming->other_kind) {
        if (renaming->to_ours && renaming->replaces && S_ISREG(renaming->replaced.st_mode)) {
            struct record lost = {.kind = UNLINKED, .inode = renaming->replaced.st_ino};
            mark(&renaming->grave, renaming->to.directory, append(lost, &renaming->to, NULL));
        }
        return;
    }
    if (!renaming->to_ours) {
        record.kind = UNLINKED;
        mark(&renaming->grave, renaming->from.directory, append(record, &renaming->from, NULL));
    } else if (!renaming->from_ours) {
        record.kind = CREATED;
        mark(&renaming->grave, renaming->to.directory, append(record, &renaming->to, NULL));
    } else {
        record.kind = swaps ? EXCHANGED : RENAMED;
        record.other = renaming->replaces ? renaming->replaced.st_ino : 0;
        if (renaming->replaces && S_ISDIR(renaming->replaced.st_mode)) {
            record.flags |= OTHER_IS_FOLDER;
        }
        mark(&renaming->grave, renaming->to.directory, append(record, &renaming->from, &renaming->to));
    }
}

static int do_rename(int from, const char *old, int to, const char *new, unsigned flags)
{
    struct renaming renaming;
    int before = errno;
    bool swaps = (flags & RENAME_EXCHANGE) != 0;
    begin_renaming(&renaming, from, old, to, new, swaps);
    enum ending ending = renaming.to_ours ? begin_call(RENAMES, renaming.to.name) : NEVER;
    errno = before;
    if (NEXT(renameat2)(from, old, to, new, flags) != 0) {
        int after = errno;
        exhume(&renaming.grave);
        errno = after;
        return -1;
    }
    if (renaming.from_ours || renaming.to_ours) {
        end_renaming(&renaming, swaps);
    }
    end_call(ending);
    errno = before;
    return 0;
}

INSTEAD int rename(const char *old, const char *new)
{
    return do_rename(AT_FDCWD, old, AT_FDCWD, new, 0);
}

INSTEAD int renameat(int from, const char *old, int to, const char *new)
{
    return do_rename(from, old, to, new, 0);
}

INSTEAD int renameat2(int from, const char *old, int to, const char *new, unsigned flags)
{
    return do_rename(from, old, to, new, flags);
}
