/* Opens those of its arguments that it can and keeps them open; linked statically, it never reads /etc/ld.so.preload. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (open(argv[i], O_RDWR) >= 0)
            puts("{}");
    fflush(stdout);
    sleep(600);
    return 0;
}
