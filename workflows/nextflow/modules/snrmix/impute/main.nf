process SNRMIX_IMPUTE {
    tag "$meta.id"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container "${params.snrmix_container ?: 'snrmix:latest'}"

    input:
    tuple val(meta), path(section)

    output:
    tuple val(meta), path("*.imputed.zarr"), emit: zarr
    tuple val(meta), path("*.snrmix.json") , emit: json
    tuple val(meta), path("*.report.html") , emit: report
    path "*_mqc.json"                      , emit: multiqc
    path "versions.yml"                    , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args   = task.ext.args   ?: ''
    def prefix = task.ext.prefix ?: "${meta.id}"
    """
    export MPLCONFIGDIR=./mplconfigdir NUMBA_CACHE_DIR=./numbacache

    snrmix impute \\
        ${section} \\
        --output ${prefix}.imputed.zarr \\
        --threads ${task.cpus} \\
        --json \\
        ${args} \\
        > ${prefix}.snrmix.json

    snrmix report \\
        ${prefix}.imputed.zarr \\
        --output ${prefix}.report.html \\
        --multiqc . \\
        --sample ${prefix} \\
        --record ${prefix}.snrmix.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        snrmix: \$(snrmix --version | sed 's/snrmix //')
    END_VERSIONS
    """

    stub:
    def prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir ${prefix}.imputed.zarr
    touch ${prefix}.snrmix.json ${prefix}.report.html ${prefix}_snrmix_mqc.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        snrmix: \$(snrmix --version | sed 's/snrmix //')
    END_VERSIONS
    """
}
