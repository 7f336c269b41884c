#include "pare/base.h"

#include <stdio.h>

int main(void) {
    printf("pare %s\n", PARE_VERSION);
    return 0;
}
